"""A peer as a subject: its environment, its worker, and its jobs."""

from __future__ import annotations

import hashlib
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
from redis import Redis

from scripts import environment, ports
from scripts.benching import idle
from scripts.benching.bench import Bench, BenchError, stop
from scripts.benching.load import Spec
from scripts.benching.plantain import BODY
from scripts.benching.watch import CALL
from scripts.program import Program, listens

VERSIONS = Path(__file__).with_name("peers") / "versions.toml"


def names() -> list[str]:
    """Of all peers."""
    return list(tomllib.loads(VERSIONS.read_text(encoding="utf-8"))["packages"])


def packages(name: str) -> list[str]:
    """What a peer's environment holds, pinned."""
    pinned = tomllib.loads(VERSIONS.read_text(encoding="utf-8"))
    return [*pinned["packages"][name], *pinned["common"]]


@dataclass
class Peer:
    """One subject."""

    bench: Bench
    name: str

    def start(self) -> None:
        """Make its environment, its table and what else it needs. Raises `BenchError`."""
        self._python = self._environment()
        self._database_url = self.bench.database(self.name)
        self._redis_url = self.bench.redis()
        self.bench.run(self._program("prepare"))

    @property
    def pids(self) -> dict[str, int]:
        """None but the worker's."""
        return {}

    @contextmanager
    def worker(self, concurrency: int) -> Iterator[dict[str, int]]:
        """Its worker, which may not be ready yet; gives its process, by name."""
        program = self._program("worker", str(concurrency), CONCURRENCY=str(concurrency))
        self.bench.start(program)
        try:
            yield {"worker": program.pid}
        finally:
            stop(program)

    def fill(self, jobs: int) -> None:
        """Store and queue so many jobs."""
        self.bench.run(self._program("fill", str(jobs)))

    def first_claim(self) -> float:
        """In seconds of the database's clock."""
        return self._times("min(claimed_at)")[0]

    def finished(self, jobs: int, seconds: float) -> list[float]:
        """When each job had its result recorded, once all have. Raises `BenchError`."""
        deadline = time.monotonic() + seconds
        while len(done := self._times("finished_at")) < jobs:
            if time.monotonic() > deadline:
                raise BenchError(f"{self.name}: {len(done)} of {jobs} jobs succeeded within {seconds:.0f} s")
            time.sleep(0.02)
        return done

    def idle(self, jobs: int) -> dict[str, list[float]]:
        """Seconds from submit, to an API that ends with this, and from its row to the call, of one job at a time."""
        port = ports.free_port()
        command = [str(self._python), "-m", "scripts.benching.apps.server", "peer", str(port)]
        program = self.bench.program(
            f"{self.name} api", command, self._settings | {"PEER": self.name}, is_ready=lambda: listens(port)
        )
        self.bench.start(program)
        try:
            spec = Spec(ports.HOST, port, "POST", ["/jobs"], {}, BODY, expect=202, must_hold='"id":"')
            sent = idle.watched(self.bench, spec, jobs, ways=())[CALL]["sent"]
        finally:
            stop(program)
        return idle.starts(sent, self._stored, self.bench.provider.times()["arrived"])

    def clear(self) -> None:
        """Take all jobs and messages away; no worker may run."""
        with psycopg.connect(self._database_url, autocommit=True) as db:
            db.execute("TRUNCATE jobs")
            if self.name == "procrastinate":
                db.execute("TRUNCATE procrastinate_jobs CASCADE")
        with Redis.from_url(self._redis_url) as redis:
            redis.flushdb()
        self.bench.settle()

    def _times(self, column: str, which: str = "state = 'succeeded'") -> list[float]:
        query = f"SELECT extract(epoch FROM {column})::float8 FROM jobs WHERE {which}"
        with psycopg.connect(self._database_url) as db:
            return [row[0] for row in db.execute(query.encode()).fetchall()]

    def _stored(self, jobs: int) -> list[float]:
        return sorted(self._times("created_at", "TRUE"))[:jobs]

    def _program(self, what: str, *arguments: str, **settings: str) -> Program:
        command = [str(self._python), "-m", "scripts.benching.peers.client", self.name, what, *arguments]
        return self.bench.program(f"{self.name} {what}", command, self._settings | settings, grace=10)

    @property
    def _settings(self) -> dict[str, str]:
        return {
            "DATABASE_URL": self._database_url,
            "REDIS_URL": self._redis_url,
            "PROVIDER_URL": self.bench.provider.url,
        }

    def _environment(self) -> Path:
        """Its Python, installed on first use. Raises `BenchError`."""
        wanted = packages(self.name)
        digest = hashlib.sha256("\n".join([*wanted, sys.version]).encode()).hexdigest()[:12]
        folder = environment.CACHE / "bench" / f"{self.name}-{digest}"
        python, whole = folder / "bin" / "python", folder / "whole"
        if whole.exists():
            return python
        self.bench.terminal.say(f"installing {', '.join(wanted)}, once")
        settings = {"PIP_CACHE_DIR": str(environment.CACHE / "pip"), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        for command in (
            [sys.executable, "-m", "venv", "--clear", str(folder)],
            [str(python), "-I", "-m", "pip", "install", "--no-input", *wanted],
        ):
            self.bench.run(self.bench.program(f"{self.name} install", command, settings), seconds=300)
        whole.touch()
        return python
