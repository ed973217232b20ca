"""What all parts of a benchmark share: PostgreSQL, Valkey, the provider, the load generator, and where samples go."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from redis import Redis

from scripts import files, ports, process
from scripts.benching.figures import Sample
from scripts.benching.load import Spec
from scripts.embedded import EmbeddedPostgres, EmbeddedValkey
from scripts.program import Program, answers
from scripts.terminal import Terminal

_START_SECONDS = 60.0
#: Half a thousand processes of a prefork pool each want a connection.
_POSTGRES = {"max_connections": "300"}


CONNECTIONS = (1, 8, 32, 256)


class BenchError(Exception):
    """What was measured did not do what it should; the text says what was seen. There are no figures then."""


@dataclass(frozen=True)
class Effort:
    """How much is measured."""

    repeats: int
    seconds: float
    jobs: int
    #: Of submit and poll.
    connections: Sequence[int] = CONNECTIONS


@dataclass
class Bench:
    """A running benchmark; `running()` makes one."""

    folder: Path
    effort: Effort
    terminal: Terminal
    postgres: EmbeddedPostgres
    valkey: EmbeddedValkey
    cleanup: ExitStack
    samples: list[Sample] = field(default_factory=list)

    def __post_init__(self) -> None:
        port = ports.free_port()
        self.provider = Provider(port)
        command = [sys.executable, "-m", "scripts.benching.provider", "--port", str(port)]
        self.provider_pid = self.start(
            self.program("provider", command, is_ready=lambda: answers(port, "/stats"))
        ).pid

    @property
    def pids(self) -> dict[str, int]:
        """The servers that everything measured has in common."""
        return {"postgres": self.postgres.pid, "valkey": self.valkey.pid}

    def note(self, sample: Sample) -> None:
        """Keep a sample, and say that there is progress."""
        self.samples.append(sample)
        shown = "  ".join(f"{value:.4g} {name}" for name, value in list(sample.figures.items())[:3])
        self.terminal.say(
            self.terminal.paint(
                f"  {sample.part}, {sample.case}, {sample.subject}, {sample.repeat + 1} of "
                f"{self.effort.repeats}: {shown}",
                "dim",
            )
        )

    def database(self, name: str) -> str:
        """The address of a new, empty database."""
        with psycopg.connect(self.postgres.url, autocommit=True) as db:
            db.execute(f'CREATE DATABASE "bench-{name}"'.encode())
        return self.postgres.url_of(f"bench-{name}")

    def redis(self) -> str:
        """The address of a numbered database of Valkey that nobody else has."""
        self._numbers = getattr(self, "_numbers", 0) + 1
        return f"{self.valkey.url.rpartition('/')[0]}/{self._numbers}"

    def program(
        self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None, **how: Any
    ) -> Program:
        """A process of the benchmark; its log is in the data folder."""
        unwanted = {"PYTHONPATH", "PYTHONHOME", "SIMULATOR_URL", "HEARTBEAT_FILE"}
        inherited = {key: value for key, value in os.environ.items() if key not in unwanted}
        log = self.folder / "logs" / f"{name.replace(' ', '-')}.log"
        return Program(
            name, command, {**inherited, "PYTHONUNBUFFERED": "1", **(environment or {})}, log, **how
        )

    def start(self, program: Program) -> Program:
        """Start it and return when it is ready; it ends with the benchmark at the latest. Raises `BenchError`."""
        program.start()
        self.cleanup.callback(stop, program)
        deadline = time.monotonic() + _START_SECONDS
        while not program.is_ready():
            if not program.alive or time.monotonic() > deadline:
                raise BenchError(f"{program.name} did not start. {files.last_words(program.log)}")
            time.sleep(0.02)
        return program

    def run(self, program: Program, seconds: float = 120) -> None:
        """Run it to its end. Raises `BenchError` when that is no success."""
        program.start()
        ended = process.wait(program.process, seconds)
        program.kill()
        if not ended or program.exit_code != 0:
            raise BenchError(f"{program.name} failed. {files.last_words(program.log)}")

    def load(
        self, spec: Spec, at_begin: Callable[[], None] = lambda: None, module: str = "load"
    ) -> dict[str, Any]:
        """Have the load generator do this; `at_begin` is called when what counts begins. Raises `BenchError`."""
        command = [*process.launcher(death_signal=9), sys.executable, "-m", f"scripts.benching.{module}"]
        log = self.folder / "logs" / "load.log"
        with (
            log.open("ab") as errors,
            subprocess.Popen(
                command,
                cwd=process.ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            ) as generator,
        ):
            assert generator.stdin is not None
            assert generator.stdout is not None
            generator.stdin.write(json.dumps(asdict(spec)) + "\n")
            generator.stdin.close()
            if generator.stdout.readline() == "begin\n":
                at_begin()
            line = generator.stdout.readline()
        if not line:
            raise BenchError(f"the load generator failed. {files.last_words(log)}")
        result: dict[str, Any] = json.loads(line)
        if result.get("wrong"):
            shown = "\n".join(f"    {text}" for text in result["wrong"])
            raise BenchError(f"{result['wrong count']} answers were not as expected, such as:\n{shown}")
        return result

    def settle(self) -> None:
        """Let PostgreSQL write down what came before, so that no part pays for another."""
        with psycopg.connect(self.postgres.url, autocommit=True) as db:
            db.execute("CHECKPOINT")

    def versions(self) -> dict[str, str]:
        """Of the two servers."""
        with psycopg.connect(self.postgres.url) as db:
            postgres = db.execute("SHOW server_version").fetchone()
        with Redis.from_url(self.valkey.url) as redis:
            info: Any = redis.info("server")
        return {
            "PostgreSQL": str(postgres[0] if postgres else ""),
            "Valkey": str(info.get("valkey_version", info["redis_version"])),
        }


class Provider:
    """Asks the provider's process."""

    def __init__(self, port: int) -> None:
        self.url = f"http://{ports.HOST}:{port}"
        self.port = port

    def reset(self, delay: float) -> None:
        self._get(f"/reset?delay={delay}")

    def stats(self) -> dict[str, int]:
        found: dict[str, int] = self._get("/stats")
        return found

    def times(self) -> dict[str, list[float]]:
        found: dict[str, list[float]] = self._get("/times")
        return found

    def wait(self, calls: int, seconds: float) -> None:
        """Return when so many calls have arrived since the reset. Raises `BenchError` after so many seconds."""
        try:
            self._get(f"/wait?calls={calls}", seconds)
        except TimeoutError:
            raise BenchError(
                f"{self.stats()['calls']} of {calls} calls came within {seconds:.0f} s"
            ) from None

    def _get(self, path: str, timeout: float = 10) -> Any:
        connection = http.client.HTTPConnection(ports.HOST, self.port, timeout=timeout)
        try:
            connection.request("GET", path)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()


def stop(program: Program) -> None:
    """End it cleanly, or after its time of grace by force; returns when it is gone."""
    program.terminate()
    if program.alive:
        process.wait(program.process, program.grace)
    program.kill()


@contextmanager
def running(folder: Path, effort: Effort, terminal: Terminal) -> Iterator[Bench]:
    """The servers, on data of their own. Raises `BenchError`, or `EmbeddedError` when one does not start."""
    files.private_folder(folder)
    files.private_folder(folder / "logs")
    with ExitStack() as cleanup:
        postgres = cleanup.enter_context(EmbeddedPostgres(folder, settings=_POSTGRES))
        valkey = cleanup.enter_context(EmbeddedValkey(folder))
        yield Bench(folder, effort, terminal, postgres, valkey, cleanup)
