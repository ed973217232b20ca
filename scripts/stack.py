"""All of Plantain on this machine: which processes there are, with which settings, and when they are ready."""

import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from scripts import files, holder, ports
from scripts.embedded import EmbeddedPostgres, EmbeddedValkey, explain
from scripts.process import ROOT
from scripts.program import Program, answers, listens
from scripts.supervisor import StartError, Supervisor
from scripts.terminal import Terminal
from shared.access.keys import new_key, prefix_of
from shared.config import SIMULATOR_KEY, Settings, problems

API_PORT = 8000
FLOWER_PORT = 5555
FLOWER_USER = "plantain"
WORKER_GRACE = 30.0


class UsageError(Exception):
    """What was asked for cannot be done; the text says why and what to do."""


@dataclass(frozen=True)
class Options:
    """What to run.

    Attributes:
        port: the API's; None takes 8000 or the next free one.
        external: PostgreSQL and Redis are somewhere else, as DATABASE_URL and REDIS_URL say.
        simulator_only: nobody calls a provider, whatever keys there are.
        settings: by their names in the environment; they win over that and .env.
    """

    folder: Path
    port: int | None = None
    workers: int = 1
    latency_scale: float = 1.0
    flower: bool = True
    external: bool = False
    simulator_only: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Stack:
    """A running Plantain. `running()` starts it; the fields are filled in as the processes start."""

    options: Options
    terminal: Terminal
    supervisor: Supervisor
    database_url: str = field(default="", repr=False)
    redis_url: str = field(default="", repr=False)
    simulator_url: str | None = None
    api_port: int = 0
    flower_port: int | None = None
    #: Providers without a key, which the simulator stands in for.
    simulated: tuple[str, ...] = ()
    seconds: float = 0

    @property
    def api_url(self) -> str:
        return f"http://{ports.HOST}:{self.api_port}"

    @property
    def flower_url(self) -> str | None:
        return f"http://{ports.HOST}:{self.flower_port}" if self.flower_port else None

    @property
    def api_key(self) -> str:
        """The key for development; it stays the same as long as the data folder does."""
        key = files.secret(self._secrets / "api_key", new_key)
        if prefix_of(key) is None:
            raise UsageError(f"{self._secrets / 'api_key'} holds no API key. Delete it and start again.")
        return key

    @property
    def flower_password(self) -> str:
        return files.secret(self._secrets / "flower_password")

    @property
    def pids(self) -> dict[str, int]:
        return {"up": os.getpid(), **self.supervisor.pids}

    @property
    def _secrets(self) -> Path:
        return self.options.folder / "secrets"

    def start(self) -> None:
        """Start everything; raises `UsageError`, `StartError` or `StoppedError`."""
        begun = time.monotonic()
        self.api_port = choose_port(self.options.port)
        if self.options.external:
            self._use_external_servers()
        else:
            self._start_servers()
        settings = self._settings()
        simulator = self._simulator(settings)
        self.supervisor.launch(*simulator)
        self._run("migrations", ["alembic", "upgrade", "head"])
        programs = [*self._workers(), self._beat()]
        api = self._api()
        self.supervisor.launch(api)
        self.supervisor.launch(*programs)
        key = ["shared.access", "ensure", "--project", "default", "--name", "development", "--secret-stdin"]
        self._run("development key", key, stdin=self.api_key + "\n")
        self.supervisor.await_ready(*simulator, api, *programs)
        # It asks the workers once what they do: those that are not there yet are shown without it.
        self.supervisor.start(*self._flower())
        self.seconds = time.monotonic() - begun

    def _start_servers(self) -> None:
        if "DATABASE_URL" in os.environ or "REDIS_URL" in os.environ:
            self.terminal.warn(
                "DATABASE_URL and REDIS_URL of the environment are not used; --external uses them"
            )
        postgres, valkey = EmbeddedPostgres(self.options.folder), EmbeddedValkey(self.options.folder)
        for server in (postgres, valkey):
            self.supervisor.start(server)
        self.database_url, self.redis_url = postgres.url, valkey.url

    def _use_external_servers(self) -> None:
        settings = self._settings()
        self.database_url = settings.database_url.get_secret_value()
        self.redis_url = settings.redis_url.get_secret_value()

    def _settings(self) -> Settings:
        """The settings that the processes will have, apart from the simulator's address."""
        known = {"database_url": self.database_url, "redis_url": self.redis_url}
        try:
            return Settings(_env_file=ROOT / ".env", **{k: v for k, v in known.items() if v})  # type: ignore[arg-type]
        except ValidationError as error:
            raise UsageError(_explain(error, external=self.options.external)) from None

    def _simulator(self, settings: Settings) -> list[Program]:
        gemini = settings.gemini_api_key is not None
        images = settings.nano_banana_api_key is not None or (gemini and settings.nano_banana_api == "google")
        keys = {"Gemini": gemini, "Nano Banana": images}
        self.simulated = tuple(name for name, has in keys.items() if self.options.simulator_only or not has)
        if not self.simulated:
            return []
        if settings.simulator_url and not self.options.simulator_only:
            self.simulator_url = settings.simulator_url
            return []
        port = ports.free_port()
        self.simulator_url = f"http://{ports.HOST}:{port}"
        command = ["scripts.simulator", "--host", ports.HOST, "--port", str(port)]
        command += ["--latency-scale", str(self.options.latency_scale)]
        return [self._program("simulator", command, is_ready=lambda: listens(port), grace=3)]

    def _api(self) -> Program:
        port = self.api_port
        return self._program(
            "api",
            ["api"],
            {"API_HOST": ports.HOST, "API_PORT": str(port)},
            is_ready=lambda: answers(port, "/api/health/ready"),
            grace=10,
        )

    def _workers(self) -> list[Program]:
        names = [f"worker-{number}" for number in range(1, self.options.workers + 1)]
        return [self._with_heartbeat(name, ["worker"], {"WORKER_NAME": name}, WORKER_GRACE) for name in names]

    def _beat(self) -> Program:
        schedule = self.options.folder / "run" / "beat-schedule"
        command = ["celery", "--quiet", "-A", "worker.app", "beat", "--schedule", str(schedule)]
        return self._with_heartbeat("beat", command, {}, 5)

    def _flower(self) -> list[Program]:
        if not self.options.flower:
            return []
        port = self.flower_port = ports.claim_next(FLOWER_PORT)
        command = ["celery", "--quiet", "-A", "worker.app", "flower"]
        # Without --logging=none it would set up a log of its own.
        command += [f"--address={ports.HOST}", f"--port={port}", "--read_only", "--logging=none"]
        secret = {"FLOWER_BASIC_AUTH": f"{FLOWER_USER}:{self.flower_password}"}
        # It keeps nothing, and waits for a thread that never ends when it is asked to stop.
        how = {"is_ready": lambda: listens(port), "stop_signal": signal.SIGKILL}
        return [self._program("flower", command, secret, **how)]

    def _with_heartbeat(
        self, name: str, command: list[str], extra: Mapping[str, str], grace: float
    ) -> Program:
        heartbeat = files.private_folder(self.options.folder / "run") / f"{name}.heartbeat"
        heartbeat.unlink(missing_ok=True)
        return self._program(
            name, command, {**extra, "HEARTBEAT_FILE": str(heartbeat)}, is_ready=heartbeat.exists, grace=grace
        )

    def _run(self, name: str, command: list[str], stdin: str = "") -> None:
        self.supervisor.run(self._program(name, command, stdin=stdin.encode()))

    def _program(
        self, name: str, command: list[str], extra: Mapping[str, str] | None = None, **how: object
    ) -> Program:
        log = self.options.folder / "logs" / f"{name.replace(' ', '-')}.log"
        files.rotate(log)
        arguments = [sys.executable, "-m", *command]
        return Program(name, arguments, {**self._environment(), **(extra or {})}, log, **how)  # type: ignore[arg-type]

    def _environment(self) -> dict[str, str]:
        """What every process gets: this one's environment, and where the others are."""
        unwanted = {"PYTHONPATH", "PYTHONHOME", "SIMULATOR_URL", "HEARTBEAT_FILE"}
        environment = {name: value for name, value in os.environ.items() if name not in unwanted}
        environment |= {
            "PYTHONUNBUFFERED": "1",
            "DATABASE_URL": self.database_url,
            "REDIS_URL": self.redis_url,
        }
        if self.simulator_url:
            environment["SIMULATOR_URL"] = self.simulator_url
        if self.simulator_url and self.options.simulator_only:
            environment |= _no_provider(self.simulator_url)
        return environment | dict(self.options.settings)


@contextmanager
def running(options: Options, terminal: Terminal) -> Iterator[Stack]:
    """A Plantain that is ready; leaving the block stops it.

    Raises `UsageError`, `HeldError`, `StartError` or `StoppedError`, each with a text for people.
    """
    with ExitStack() as cleanup:
        try:
            files.private_folder(options.folder)
            files.private_folder(options.folder / "logs")
            lock = cleanup.enter_context(holder.hold(options.folder))
        except OSError as error:
            raise UsageError(f"cannot use the data folder {options.folder}: {explain(error)}") from None
        supervisor = cleanup.enter_context(Supervisor(terminal))
        stack = Stack(options, terminal, supervisor)
        try:
            stack.start()
        except OSError as error:
            raise StartError(f"cannot start: {explain(error)}") from error
        holder.describe(lock, holder.Holder(os.getpid(), stack.api_url, stack.database_url, stack.redis_url))
        yield stack


def choose_port(wanted: int | None) -> int:
    """The port that was asked for, or 8000, or the next free one."""
    if wanted is None:
        return ports.claim_next(API_PORT)
    if wanted == 0:
        return ports.free_port()
    if not ports.claim(wanted):
        raise UsageError(
            f"port {wanted} is in use (or not allowed). Name another one, or leave --port away to get a free one."
        )
    return wanted


def _no_provider(simulator_url: str) -> dict[str, str]:
    """Keys and addresses that win over those in .env, so that no provider can be called."""
    return {
        "ENVIRONMENT": "development",
        "GEMINI_API_KEY": SIMULATOR_KEY,
        "GEMINI_BASE_URL": simulator_url,
        "NANO_BANANA_API": "google",
        "NANO_BANANA_API_KEY": SIMULATOR_KEY,
        "NANO_BANANA_BASE_URL": simulator_url,
    }


def _explain(error: ValidationError, *, external: bool) -> str:
    missing = [str(part["loc"][0]).upper() for part in error.errors() if part["type"] == "missing"]
    if missing and external:
        return (
            f"--external needs DATABASE_URL and REDIS_URL, in the environment or in .env; "
            f"missing: {', '.join(missing)}.\nWithout --external, PostgreSQL and Valkey are started for you."
        )
    lines = [f"  {line}" for line in problems(error)]
    return "\n".join(["these settings (environment, .env) do not work; .env.example explains each:", *lines])
