"""Plantain as a subject: one checkout, with a database, an API, beat and workers of its own."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psycopg
from redis import Redis

from scripts import files, ports
from scripts.benching import idle
from scripts.benching.bench import Bench, BenchError, stop
from scripts.benching.follow import StreamSpec
from scripts.benching.load import Spec
from scripts.benching.watch import CALL
from scripts.process import ROOT
from scripts.program import Program, answers
from shared.access.keys import new_key

BODY = '{"kind": "text.generate", "model": "gemini-flash", "input": {"prompt": "Name a fruit."}}'
#: Queued jobs lie there for as long as a part likes, and the provider is never paused or limited.
SETTINGS = {
    "ENVIRONMENT": "development",
    "LOG_LEVEL": "WARNING",
    "REPUBLISH_AFTER_SECONDS": "3600",
    "GEMINI_API_KEY": "loopback",
    "NANO_BANANA_API": "google",
    "MODEL_LIMITS": "",
}


@dataclass
class Plantain:
    """One subject. `checkout` is the folder of its code; `fill` is called once with its database's address."""

    bench: Bench
    name: str = "plantain"
    checkout: Path = ROOT
    _began: float = field(default=0.0, repr=False)

    def start(self) -> None:
        """Start the API and beat; they run until the benchmark ends. Raises `BenchError`."""
        bench, port, label = self.bench, ports.free_port(), self.name.replace(" ", "-").replace(",", "")
        self.port, self.key = port, new_key()
        self.database_url, self.redis_url = bench.database(label), bench.redis()
        self._environment = SETTINGS | {
            "DATABASE_URL": self.database_url,
            "REDIS_URL": self.redis_url,
            "GEMINI_BASE_URL": bench.provider.url,
            "API_HOST": ports.HOST,
            "API_PORT": str(port),
        }
        self._label = label
        bench.run(self._program("migrate", ["alembic", "upgrade", "head"]))
        ensure = ["shared.access", "ensure", "--project", "default", "--name", "bench", "--secret-stdin"]
        bench.run(self._program("key", ensure, stdin=f"{self.key}\n".encode()))
        self.api = self._start_api()
        schedule = str(bench.folder / f"{label}-beat")
        beat = ["celery", "--quiet", "-A", "worker.app", "beat", "--schedule", schedule]
        self.beat = bench.start(self._program("beat", beat))

    def restart_api(self) -> None:
        """A process that remembers nothing of what came before."""
        stop(self.api)
        self.api = self._start_api()

    def _start_api(self) -> Program:
        is_ready = partial(answers, self.port, "/api/health/ready")
        return self.bench.start(self._program("api", ["api"], is_ready=is_ready))

    @property
    def pids(self) -> dict[str, int]:
        return {"api": self.api.pid, "beat": self.beat.pid}

    def spec(self, **how: object) -> Spec:
        """Requests with this subject's address and key; submits, unless `how` says otherwise."""
        asked: dict[str, object] = {
            "method": "POST",
            "paths": ["/api/v1/jobs"],
            "body": BODY,
            "expect": 202,
            "must_hold": '"id":"',
        }
        headers = {"Authorization": f"Bearer {self.key}"}
        return Spec(host=ports.HOST, port=self.port, headers=headers, **(asked | how))  # type: ignore[arg-type]

    def poll(self, **how: object) -> Spec:
        """Requests for many jobs in turn."""
        paths = [f"/api/v1/jobs/{each}" for each in self._some_ids(2000)]
        asked: dict[str, object] = {
            "method": "GET",
            "body": "",
            "expect": 200,
            "must_hold": "",
            "paths": paths,
        }
        return self.spec(**(asked | how))

    def follow(self, *, per_job: bool, streams: int, changes: int, warm: float) -> StreamSpec:
        """Event streams of the project, or of a job each, and jobs that change under them."""
        ids = self._some_ids(streams)
        with psycopg.connect(self.database_url) as db:
            row = db.execute("SELECT id FROM projects WHERE name = 'default'").fetchone()
        assert row is not None
        return StreamSpec(
            host=ports.HOST,
            port=self.port,
            method="GET",
            headers={"Authorization": f"Bearer {self.key}"},
            paths=[f"/api/v1/jobs/{each}/events" for each in ids] if per_job else ["/api/v1/events"],
            connections=streams,
            warm=warm,
            database_url=self.database_url,
            redis_url=self.redis_url,
            project=str(row[0]),
            jobs=tuple(ids[:changes]),
            told=1 if per_job else streams,
        )

    @contextmanager
    def worker(self, concurrency: int) -> Iterator[dict[str, int]]:
        """One worker process that is ready; gives what counts as the worker, by name."""
        heartbeat = self.bench.folder / f"{self._label}.heartbeat"
        heartbeat.unlink(missing_ok=True)
        settings = {
            "WORKER_CONCURRENCY": str(concurrency),
            "WORKER_NAME": f"{self._label}-bench",
            "HEARTBEAT_FILE": str(heartbeat),
        }
        program = self._program("worker", ["worker"], settings, is_ready=heartbeat.exists, grace=20)
        self.bench.start(program)
        try:
            yield {"worker": program.pid}
        finally:
            stop(program)

    def fill(self, jobs: int) -> None:
        """Submit so many jobs over HTTP; they are queued and published when this returns."""
        self._began = self._now()
        self.bench.load(self.spec(count=jobs, connections=64))

    def first_claim(self) -> float:
        """When the first job of the last `fill` was taken, in seconds of the database's clock."""
        return self._value(
            "SELECT extract(epoch FROM min(claimed_at))::float8 FROM attempts WHERE claimed_at >= to_timestamp(%s)",
            self._began,
        )

    def finished(self, jobs: int, seconds: float) -> list[float]:
        """When each job of the last `fill` had its result recorded, once all have. Raises `BenchError`."""
        query = "SELECT extract(epoch FROM finished_at)::float8 FROM jobs WHERE state = %s AND created_at >= to_timestamp(%s)"
        deadline = time.monotonic() + seconds
        with psycopg.connect(self.database_url, autocommit=True) as db:
            while True:
                done = [row[0] for row in db.execute(query, ["succeeded", self._began]).fetchall()]
                if len(done) == jobs:
                    return done
                if time.monotonic() > deadline:
                    raise BenchError(
                        f"{self.name}: {len(done)} of {jobs} jobs succeeded within {seconds:.0f} s"
                    )
                time.sleep(0.02)

    def idle(self, jobs: int) -> dict[str, list[float]]:
        """Seconds, by what was waited for, of jobs that are sent one at a time. Needs a worker."""
        self._began = self._now()
        ways = ("polling", "Prefer: wait", "events")
        seen = idle.watched(self.bench, self.spec(), jobs, ways)
        times = self.bench.provider.times()
        at = len(seen[CALL]["sent"])
        found = idle.starts(seen[CALL]["sent"], self._stored, times["arrived"][:at])
        for way in ways:
            count = len(seen[way]["sent"])
            answered = times["answered"][at : at + count]
            at += count
            if len(seen[way]["seen"]) == count:
                found[f"answered → seen by {way}"] = idle.differences(answered, seen[way]["seen"])
        return found

    def _stored(self, jobs: int) -> list[float]:
        """When the first rows since `_began` began to be stored, in seconds of the database's clock."""
        query = "SELECT extract(epoch FROM created_at)::float8 FROM jobs WHERE created_at >= to_timestamp(%s) ORDER BY created_at LIMIT %s"
        with psycopg.connect(self.database_url) as db:
            return [row[0] for row in db.execute(query, [self._began, jobs]).fetchall()]

    def _now(self) -> float:
        return self._value("SELECT extract(epoch FROM clock_timestamp())::float8")

    def rows(self) -> int:
        """How many jobs there are."""
        return int(self._value("SELECT count(*) FROM jobs"))

    def _some_ids(self, count: int) -> list[str]:
        with psycopg.connect(self.database_url) as db:
            rows = db.execute("SELECT id FROM jobs ORDER BY random() LIMIT %s", [count]).fetchall()
        return [str(row[0]) for row in rows]

    def clear(self) -> None:
        """Take all jobs and messages away."""
        with psycopg.connect(self.database_url, autocommit=True) as db:
            db.execute("TRUNCATE jobs CASCADE")
        self._unlink_messages()
        self.bench.settle()

    def python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the checkout's Python with these settings. Raises `BenchError` when that is no success."""
        program = self._program("python", [])
        done = subprocess.run(
            [program.command[0], *arguments],
            env=dict(program.environment),
            cwd=self.checkout,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if done.returncode:
            raise BenchError(f"{self.name}: python {' '.join(arguments)} failed: {done.stderr[-1000:]}")
        return done

    def _unlink_messages(self) -> None:
        """Only the queues: what Celery's processes wrote down about themselves stays."""
        with Redis.from_url(self.redis_url) as redis:
            for queue in redis.scan_iter(_type="list"):
                redis.unlink(queue)

    def _value(self, query: str, *values: object) -> float:
        with psycopg.connect(self.database_url) as db:
            row = db.execute(query.encode(), values).fetchone()
        if row is None or row[0] is None:
            raise BenchError(f"{self.name}: nothing was found by {query}")
        return float(row[0])

    def _program(
        self, name: str, module: list[str], more: dict[str, str] | None = None, **how: object
    ) -> Program:
        own = self.checkout / ".venv" / "bin" / "python"
        command = [str(own) if own.exists() else sys.executable, "-m", *module]
        program = self.bench.program(
            f"{self._label} {name}", command, self._environment | (more or {}), cwd=self.checkout, **how
        )
        files.rotate(program.log)
        return program
