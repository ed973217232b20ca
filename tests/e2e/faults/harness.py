"""A stack of real processes for one test, and everything that can be done to it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any
from uuid import uuid4

import httpx
import psycopg
from redis import Redis

from scripts import files, ports
from scripts.program import answers, listens
from shared.access import service as access
from shared.access.keys import new_key
from shared.db import Database
from tests.conftest import migrate, settings_of
from tests.e2e.faults import invariant, parts
from tests.e2e.faults.clients import Clients
from tests.e2e.faults.parts import Guardian, Part, Program, Server, await_ready
from tests.e2e.faults.proxy import Proxy
from tests.e2e.faults.report import Line

#: Short leases and intervals: the mechanisms are those of production, only sooner.
SETTINGS: dict[str, object] = {
    "ENVIRONMENT": "test",
    "LEASE_SECONDS": 5,
    "LEASE_RENEW_SECONDS": 1,
    "REPUBLISH_AFTER_SECONDS": 2,
    "RETRY_BASE_SECONDS": 0.2,
    "RETRY_CAP_SECONDS": 2,
    "JOB_TIMEOUT": 60,
    "WORKER_CONCURRENCY": 10,
}
#: What a supervisor waits before it starts again what has exited, seconds.
_RESTART_PAUSE = 0.3


class Servers:
    """PostgreSQL, Valkey and the simulator of a session, and a migrated database to copy."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.seed = seed
        self.guardian = Guardian()
        self.postgres: Server = parts.postgres(folder, self.guardian)
        self.valkey: Server = parts.valkey(folder, self.guardian)
        self.key = new_key()
        port = ports.free_port()
        self.simulator_url = f"http://{ports.HOST}:{port}"
        wanted = ["--port", str(port), "--picture-weight", "light", "--seed", str(seed)]
        self.simulator = Program(
            "simulator", ["scripts.simulator", *wanted], {}, folder, self.guardian, lambda: listens(port)
        )
        self._template = "plantain_faults"

    def start(self) -> None:
        self.simulator.start()
        self.postgres.start()
        self.valkey.start()
        self.execute(f"CREATE DATABASE {self._template}")
        url = self._url(self._template)
        migrate(url)
        asyncio.run(self._register_key(url))
        await_ready(self.simulator)

    def close(self) -> None:
        for part in (self.simulator, self.valkey, self.postgres):
            part.kill()
        self.guardian.close()

    def heal(self) -> None:
        """Brings back what a test has broken."""
        for part in (self.simulator, self.postgres, self.valkey):
            if part.frozen:
                part.thaw()
            if not part.alive:
                part.start()
        await_ready(self.simulator, self.postgres, self.valkey)

    def fresh_database(self, tablespace: str = "pg_default") -> str:
        name = f"faults_{uuid4().hex[:12]}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {self._template} TABLESPACE {tablespace}")
        return self._url(name)

    def forget(self) -> None:
        """An empty Redis, and a simulator that remembers no call."""
        with Redis.from_url(self.valkey.server.url) as redis:
            redis.flushall()
        httpx.delete(f"{self.simulator_url}/sim/calls", trust_env=False).raise_for_status()

    def _url(self, database: str) -> str:
        return self.postgres.server.url.rpartition("/")[0] + f"/{database}"

    def execute(self, *statements: str) -> None:
        """As an operator does, also where the server is read-only."""
        url, options = self.postgres.server.url, "-c default_transaction_read_only=off"
        with psycopg.connect(url, autocommit=True, options=options) as db:
            for statement in statements:
                db.execute(statement.encode())

    def rows(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.postgres.server.url, autocommit=True) as db:
            return db.execute(query.encode(), parameters or None).fetchall()

    async def _register_key(self, url: str) -> None:
        database = Database(settings_of(database_url=url, redis_url=self.valkey.server.url))
        await access.create(database, project="default", name="faults", key=self.key)
        await database.close()


class Orders:
    """Files that the processes obey at named points: see shared/checkpoints.py, which lists the points."""

    def __init__(self, folder: Path) -> None:
        self.folder = files.private_folder(folder)
        self._taken = files.private_folder(folder / "taken")
        self._serial = 0

    def kill(self, point: str, job: str = "any", *, count: int = 1, always: bool = False) -> None:
        """The next ``count`` processes that come to the point (with this job) are killed; or all, always."""
        self._write(point, "kill", job, count, always=always)

    def stop(self, point: str, job: str = "any", *, count: int = 1) -> None:
        """They are stopped (SIGSTOP): thaw them with ``Stack.thaw``, after ``Stack.freeze``."""
        self._write(point, "stop", job, count)

    @contextmanager
    def hold(self, point: str, job: str = "any", *, count: int = 1) -> Iterator[Callable[[], list[str]]]:
        """The next ``count`` jobs wait at the point until the block ends; gives a function that names those held."""
        self._write(point, "hold", job, count)
        try:
            yield lambda: self.taken(point, "hold")
        finally:
            self.release(point)

    def release(self, point: str) -> None:
        """Lets go what is held at the point, and takes back the orders that nobody has met."""
        for order in self.folder.glob(f"{point}.hold.*"):
            order.unlink(missing_ok=True)
        for order in self._taken.glob(f"{point}.hold.*"):
            order.unlink(missing_ok=True)

    def taken(self, point: str, action: str = "*") -> list[str]:
        """The jobs with which orders for this point were met."""
        return [path.name.split("@")[1] for path in self._taken.glob(f"{point}.{action}.*")]

    def withdraw(self) -> None:
        """No further orders."""
        for order in self.folder.glob("*.*.*.*"):
            order.unlink(missing_ok=True)

    def _write(self, point: str, action: str, job: str, count: int, *, always: bool = False) -> None:
        for _ in range(count):
            self._serial += 1
            serial = "always" if always else f"{self._serial:04}"
            files.write_private(self.folder / f"{point}.{action}.{job}.{serial}", "")


@dataclass(frozen=True)
class Recorded:
    """Facts of a finished attempt, as a test may want to look at them."""

    job_id: str
    number: int
    outcome: str | None
    worker: str
    counted: bool


class Stack:
    """The processes of one test, its clients, proxies and orders.

    Args:
        workers: how many; ``worker-1`` and so on.
        beats: ``beat``, or ``beat-1`` and so on where there are several.
        tablespace: where its database lies.
        proxied: connections that go through a proxy, as ``worker:redis``, ``api:postgres``, ``worker-2:redis``.
        settings: by the name in the environment; they win over ``SETTINGS``.
    """

    def __init__(
        self,
        servers: Servers,
        folder: Path,
        random: Random,
        *,
        workers: int = 2,
        beats: int = 1,
        proxied: Sequence[str] = (),
        tablespace: str = "pg_default",
        **settings: object,
    ) -> None:
        self.servers = servers
        self.random = random
        self.folder = files.private_folder(folder)
        self.database_url = servers.fresh_database(tablespace)
        self.orders = Orders(folder / "orders")
        self.proxies = {name: self._proxy(name) for name in proxied}
        self.began = time.monotonic()
        #: Filled by ``verify``.
        self.lines: list[tuple[tuple[int, int], int, int, float | None, str]] = []
        self.restarts: Counter[str] = Counter()
        #: What is started again when it exits by itself.
        self.supervised: set[str] = set()
        self._exited: dict[str, float] = {}
        self._marks: list[float] = []
        self._settings = {**SETTINGS, **settings}
        self.api_port = ports.free_port()
        self.clients = Clients(f"http://{ports.HOST}:{self.api_port}", servers.key, Random(random.random()))
        self.worker_names = [f"worker-{number}" for number in range(1, workers + 1)]
        self.beat_names = ["beat"] if beats == 1 else [f"beat-{number}" for number in range(1, beats + 1)]
        self.parts: dict[str, Part] = {
            "postgres": servers.postgres,
            "valkey": servers.valkey,
            "simulator": servers.simulator,
            "api": self._api(),
            **{name: self._program(name, ["worker"], WORKER_NAME=name) for name in self.worker_names},
            **{name: self._program(name, ["celery", "-A", "worker.app", "beat"]) for name in self.beat_names},
        }

    # ---- Processes

    @property
    def own(self) -> list[Part]:
        """The parts that live for this test only."""
        return [part for name, part in self.parts.items() if name not in {"postgres", "valkey", "simulator"}]

    def begin(self) -> None:
        for part in self.own:
            part.start()
        await_ready(*self.own)
        self.supervised = {part.name for part in self.own}
        self.clients.start()

    def close(self) -> None:
        self.supervised = set()
        for part in self.own:
            part.thaw()
            part.kill()
        self.clients.close()
        for proxy in self.proxies.values():
            proxy.close()

    def kill(self, name: str, *, restart: bool = True) -> None:
        """SIGKILL, with children; afterwards it is started again as anything that exits, or is not."""
        if not restart:
            self.supervised.discard(name)
        self.parts[name].kill()

    def terminate(self, name: str) -> None:
        """SIGTERM; it is not started again by itself."""
        self.supervised.discard(name)
        self.parts[name].terminate()

    def freeze(self, name: str) -> None:
        self.parts[name].freeze()

    def thaw(self, name: str) -> None:
        self.parts[name].thaw()

    def start(self, name: str, *, wait: bool = True) -> None:
        """Starts what has ended and, unless told otherwise, returns when it is ready."""
        part = self.parts[name]
        part.start()
        if wait:
            await_ready(part)
        if part in self.own:
            self.supervised.add(name)

    def restart(self, name: str, *, patience: float = 60) -> float:
        """SIGTERM, wait for the exit, start; answers how long the exit took."""
        began = time.monotonic()
        self.terminate(name)
        self.wait_until(lambda: not self.parts[name].alive, patience, f"{name} exits")
        took = time.monotonic() - began
        self.start(name, wait=False)
        return took

    def tick(self) -> None:
        """Starts again what has exited, as compose's ``restart: unless-stopped`` does."""
        for name in self.supervised:
            part = self.parts[name]
            if part.alive:
                continue
            exited = self._exited.setdefault(name, time.monotonic())
            if time.monotonic() - exited > _RESTART_PAUSE:
                del self._exited[name]
                part.kill()
                part.start()
                self.restarts[name] += 1

    # ---- Waiting and looking

    def wait_until(self, true: Callable[[], bool], seconds: float, what: str) -> None:
        """Fails, with the situation, when it has not come true in time."""
        deadline = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < deadline, f"after {seconds:.0f} s still not: {what}; {self.situation()}"
            self.tick()
            time.sleep(0.02)

    def pause(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.tick()
            time.sleep(min(0.02, max(0.0, deadline - time.monotonic())))

    def settle(self, seconds: float) -> None:
        """Waits until every job is final."""
        self.wait_until(lambda: self.unfinished() == 0, seconds, "every job is final")

    def sql(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.database_url, autocommit=True, connect_timeout=3) as db:
            return db.execute(query.encode(), parameters or None).fetchall()

    def states(self) -> dict[str, int]:
        return dict(self.sql("SELECT state, count(*) FROM jobs GROUP BY state"))

    def unfinished(self) -> int:
        """Jobs that are not final; all of them while the database is away."""
        try:
            states = self.states()
        except psycopg.OperationalError:
            return len(self.clients.told) or 1
        return sum(count for state, count in states.items() if state in {"queued", "running"})

    def finished(self) -> int:
        """Jobs that succeeded."""
        return self.states().get("succeeded", 0)

    def running(self, worker: str = "") -> int:
        """Jobs under way, on one worker or on all."""
        query = "SELECT count(*) FROM jobs WHERE state = 'running' AND lease_owner LIKE %s"
        return int(self.sql(query, f"{worker}%")[0][0])

    def attempts(self, *jobs: str) -> list[Recorded]:
        query = "SELECT job_id, number, outcome, worker, counted FROM attempts WHERE job_id = ANY(%s::uuid[]) OR %s"
        rows = self.sql(query + " ORDER BY job_id, number", list(jobs), not jobs)
        return [
            Recorded(str(job), number, outcome, worker, counted)
            for job, number, outcome, worker, counted in rows
        ]

    def outcomes(self, *jobs: str) -> Counter[str | None]:
        return Counter(each.outcome for each in self.attempts(*jobs))

    def calls_by_job(self) -> dict[str, dict[str, int]]:
        answer = httpx.get(f"{self.servers.simulator_url}/sim/calls", trust_env=False)
        by_job: dict[str, dict[str, int]] = answer.json()["by_job"]
        return by_job

    def calls(self, *jobs: str) -> int:
        """Provider calls so far, of these jobs or of all."""
        by_job = self.calls_by_job()
        return sum(sum(by_job.get(job, {}).values()) for job in (jobs or by_job))

    def redis(self) -> Redis:
        """A client of the broker itself; close it."""
        return Redis.from_url(self.servers.valkey.server.url, socket_timeout=5)

    def situation(self) -> str:
        try:
            states: object = self.states()
        except psycopg.OperationalError:
            states = "the database is away"
        parts_now = {p.name: "runs" if p.alive else p.exit_code for p in self.parts.values()}
        return f"jobs: {states}, calls: {self.calls()}, {parts_now}, restarted: {dict(self.restarts)}"

    # ---- The verdict

    def mark(self) -> None:
        """The fault is over (or has happened): the recovery is measured from here."""
        self._marks.append(time.time())

    def recovery(self) -> float | None:
        """Seconds from a mark until the last job that was not final then was claimed (again); the worst of all marks."""
        query = """
            SELECT extract(epoch FROM max(claimed_at)) - %s FROM (
                SELECT a.job_id, min(a.claimed_at) AS claimed_at FROM attempts a JOIN jobs j ON j.id = a.job_id
                WHERE j.created_at <= to_timestamp(%s) AND a.claimed_at > to_timestamp(%s) GROUP BY a.job_id
            ) AS next
        """
        found = [self.sql(query, mark, mark, mark)[0][0] for mark in self._marks]
        return max((float(each) for each in found if each is not None), default=None)

    def longest_gap(self) -> float:
        """Seconds from a claim whose worker was lost to the job's next claim; the worst."""
        query = """
            SELECT extract(epoch FROM max(next.claimed_at - a.claimed_at)) FROM attempts a
            JOIN attempts next ON next.job_id = a.job_id AND next.number = a.number + 1
            WHERE a.outcome IN ('lost', 'unknown')
        """
        return float(self.sql(query)[0][0] or 0)

    def verify(
        self, *, calls: int | tuple[int, int], remark: str = "", recovery: float | None = None
    ) -> invariant.Facts:
        """Invariant I, with this number of provider calls; writes the test's line of the table."""
        expected = (calls, calls) if isinstance(calls, int) else calls
        facts = invariant.gather(self.database_url, self.calls_by_job(), self.clients.told)
        assert facts.jobs, "no job was accepted"
        self.lines.append((expected, facts.made, len(facts.jobs), recovery or self.recovery(), remark))
        invariant.check(facts, expected)
        return facts

    def line(self, number: int, name: str) -> list[Line]:
        took = time.monotonic() - self.began
        return [
            Line(number, name, jobs, expected, made, recovery, self.servers.seed, took, remark)
            for expected, made, jobs, recovery, remark in self.lines
        ]

    # ---- Making it

    def _proxy(self, name: str) -> Proxy:
        server = self.servers.valkey if name.endswith(":redis") else self.servers.postgres
        return Proxy(server.server.port)

    def _api(self) -> Program:
        port = self.api_port
        wanted = {"API_HOST": ports.HOST, "API_PORT": port}
        return self._program("api", ["api"], lambda: answers(port, "/api/health/ready"), **wanted)

    def _program(
        self, name: str, arguments: Sequence[str], is_ready: Callable[[], bool] | None = None, **extra: object
    ) -> Program:
        environment = {
            "DATABASE_URL": self._through(name, "postgres", self.database_url),
            "REDIS_URL": self._through(name, "redis", self.servers.valkey.server.url),
            "SIMULATOR_URL": self.servers.simulator_url,
            "TEST_CHECKPOINTS": self.orders.folder,
            **self._settings,
            **extra,
        }
        shown = {key: str(value) for key, value in environment.items()}
        return Program(name, arguments, shown, self.folder, self.servers.guardian, is_ready)

    def _through(self, name: str, server: str, url: str) -> str:
        """The server's address, or its proxy's where this process (or all of its sort) goes through one."""
        for who in (name, name.partition("-")[0]):
            if proxy := self.proxies.get(f"{who}:{server}"):
                port = (self.servers.valkey if server == "redis" else self.servers.postgres).server.port
                return url.replace(f":{port}/", f":{proxy.port}/")
        return url
