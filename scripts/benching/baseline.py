"""The apps that Plantain's API is compared with, as subjects."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import psycopg
from redis import Redis

from scripts import ports
from scripts.benching.bench import Bench
from scripts.benching.load import Spec
from scripts.benching.plantain import BODY
from scripts.program import listens


@dataclass
class Empty:
    """An empty FastAPI handler."""

    bench: Bench
    name: str = "empty handler"

    def start(self) -> None:
        """Raises: BenchError: it does not."""
        self._serve("empty", {})

    @property
    def pids(self) -> dict[str, int]:
        return {"api": self._pid}

    def spec(self, **how: object) -> Spec:
        return self._spec({"method": "POST", "paths": ["/"], "body": BODY}, how)

    def poll(self, **how: object) -> Spec:
        return self._spec({"method": "GET", "paths": ["/"]}, how)

    def rows(self) -> int | None:
        """None: it keeps nothing."""
        return None

    def clear(self) -> None:
        """There is nothing."""

    def _serve(self, app: str, environment: dict[str, str]) -> None:
        port = self.port = ports.free_port()
        command = [sys.executable, "-m", "scripts.benching.apps.server", app, str(port)]
        program = self.bench.program(app, command, environment, is_ready=lambda: listens(port))
        self._pid = self.bench.start(program).pid

    def _spec(self, asked: dict[str, object], how: dict[str, object]) -> Spec:
        return Spec(host=ports.HOST, port=self.port, headers={}, **(asked | how))  # type: ignore[arg-type]


@dataclass
class Tutorial(Empty):
    """FastAPI, SQLAlchemy's ORM and Celery."""

    name: str = "tutorial"

    def start(self) -> None:
        """Raises: BenchError: it does not."""
        self._database_url, self._redis_url = self.bench.database("tutorial"), self.bench.redis()
        self._serve("tutorial", {"DATABASE_URL": self._database_url, "REDIS_URL": self._redis_url})

    def spec(self, **how: object) -> Spec:
        asked = {"method": "POST", "paths": ["/jobs"], "body": BODY, "expect": 202, "must_hold": '"id":"'}
        return self._spec(asked, how)

    def poll(self, **how: object) -> Spec:
        with psycopg.connect(self._database_url) as db:
            ids = db.execute("SELECT id FROM jobs ORDER BY random() LIMIT 2000").fetchall()
        return self._spec({"method": "GET", "paths": [f"/jobs/{row[0]}" for row in ids]}, how)

    def rows(self) -> int:
        with psycopg.connect(self._database_url) as db:
            row = db.execute("SELECT count(*) FROM jobs").fetchone()
        return row[0] if row else 0

    def clear(self) -> None:
        """Take all jobs and messages away."""
        with psycopg.connect(self._database_url, autocommit=True) as db:
            db.execute("TRUNCATE jobs")
        with Redis.from_url(self._redis_url) as redis:
            redis.flushdb()
        self.bench.settle()
