"""A runner as a worker process has one, on the test's database, with the simulator as its provider."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Row, text

from shared.config import Settings
from shared.db import Database
from shared.jobs import queries
from shared.providers import Drivers
from shared.providers.base import Call, Driver, Generation, Usage
from shared.providers.catalog import ModelSpec
from shared.wakeups import Wakeups
from tests import factories
from tests.conftest import SettingsFactory
from tests.contract.conftest import RunningSimulator, simulator
from tests.patience import PATIENCE
from worker.flights import Flights
from worker.maintenance import Maintenance
from worker.objection import Objection
from worker.runner import Runner

__all__ = ["simulator"]


@pytest.fixture
def settings(make_settings: SettingsFactory, simulator: RunningSimulator) -> Settings:
    """Short leases and retries at once, so that nothing takes long."""
    return make_settings(
        simulator_url=simulator.url,
        lease_seconds=2,
        lease_renew_seconds=0.25,
        retry_base_seconds=0.001,
        retry_cap_seconds=0.001,
        worker_concurrency=20,
    )


class Scripted:
    """A driver that does what the test says."""

    provider = "scripted"
    streams = False

    def __init__(self, act: Callable[[Call], Any]) -> None:
        self.act = act
        self.calls: list[Call] = []

    async def generate(self, request: Any, call: Call) -> Generation:
        self.calls.append(call)
        done = self.act(call)
        answer = await done if asyncio.iscoroutine(done) else done
        assert isinstance(answer, Generation)
        return answer

    async def aclose(self) -> None:
        pass


class ScriptedDrivers(Drivers):
    """Gives every model the same driver."""

    def __init__(self, settings: Settings, driver: Driver) -> None:
        super().__init__(settings)
        self._driver = driver

    def get(self, model: ModelSpec) -> Driver:
        return self._driver


def said(words: str, **fields: Any) -> Generation:
    """A generation of text."""
    return Generation(
        **{"text": words, "images": (), "finish_reason": "stop", "usage": Usage(10, 20), **fields}
    )


class Worker:
    """One worker without Celery around it: what its one task calls, and what runs beside that."""

    def __init__(self, database: Database, settings: Settings, drivers: Drivers, name: str) -> None:
        self.flights = Flights(database, settings, name, ["text.standard"])
        self.objection = Objection(database, settings, self.flights, name)
        self.wakeups = Wakeups(settings)
        self.runner = Runner(database, settings, drivers, self.flights, self.wakeups, name)

    async def run(self, job_id: UUID) -> str:
        return await self.runner.run(job_id)


Workers = Callable[..., AbstractAsyncContextManager[Worker]]


@pytest.fixture
def workers(database: Database, settings: Settings) -> Workers:
    """Makes workers; ``keep=False`` makes one that renews nothing, as one that hangs."""

    @asynccontextmanager
    async def make(
        driver: Driver | None = None, *, name: str = "w", keep: bool = True, **changes: Any
    ) -> AsyncIterator[Worker]:
        drivers = ScriptedDrivers(settings, driver) if driver else Drivers(settings)
        made = Worker(database, settings.model_copy(update=changes), drivers, name)
        background = [
            asyncio.create_task(made.flights.keep()),
            asyncio.create_task(made.objection.keep()),
            asyncio.create_task(made.wakeups.listen_for_cancels(made.flights.wake)),
        ]
        if not keep:
            background[0].cancel()
            background[1].cancel()
        try:
            yield made
        finally:
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
            await drivers.aclose()
            await made.runner.close()
            await made.wakeups.close()

    return make


@pytest.fixture
async def worker(workers: Workers) -> AsyncIterator[Worker]:
    async with workers() as made:
        yield made


class Table:
    """What the tests put into the database and read from it."""

    def __init__(self, database: Database, project_id: UUID) -> None:
        self.database = database
        self.project_id = project_id

    async def add(
        self, prompt: str = "hello", *, shape: Mapping[str, Any] | None = None, **columns: Any
    ) -> UUID:
        """A queued text job."""
        fields = {"input": {"prompt": prompt, **(shape or {})}, **columns}
        return UUID(str((await factories.job(self.database, self.project_id, **fields)).id))

    async def add_image(self, prompt: str = "a plantain", **columns: Any) -> UUID:
        value = {**factories.IMAGE_JOB["input"], "prompt": prompt}
        rest = {"kind": "image.generate", "model": "nano-banana", "queue": "image.standard"}
        return await self.add(**{**rest, "input": value, **columns})

    async def get(self, job_id: UUID) -> Row[Any]:
        return (await self.ask("SELECT * FROM jobs WHERE id = :id", id=job_id))[0]

    async def attempts(self, job_id: UUID) -> list[Row[Any]]:
        async with self.database.transaction() as db:
            return list(await queries.attempts(db, job_id))

    async def events(self, job_id: UUID) -> list[str]:
        rows = await self.ask(
            "SELECT version, type FROM job_events WHERE job_id = :id ORDER BY version", id=job_id
        )
        assert [row.version for row in rows] == list(range(1, len(rows) + 1))
        return [row.type for row in rows]

    async def cancel(self, job_id: UUID) -> Row[Any] | None:
        async with self.database.transaction() as db:
            return await queries.cancel(db, self.project_id, job_id)

    async def ask(self, statement: str, **parameters: Any) -> list[Row[Any]]:
        async with self.database.transaction() as db:
            return list(await db.execute(text(statement), parameters))

    async def run(self, statement: str, **parameters: Any) -> None:
        async with self.database.transaction() as db:
            await db.execute(text(statement), parameters)

    async def until(self, condition: str, seconds: float = PATIENCE, **parameters: Any) -> None:
        """Waits until ``SELECT condition`` says true."""
        async with asyncio.timeout(seconds):
            while not (await self.ask(f"SELECT {condition} AS yes", **parameters))[0].yes:
                await asyncio.sleep(0.01)

    async def until_sent(self, job_id: UUID) -> None:
        await self.until(
            "EXISTS (SELECT 1 FROM attempts WHERE job_id = :id AND outcome IS NULL AND sent_at IS NOT NULL)",
            id=job_id,
        )


@pytest.fixture
async def table(database: Database) -> Table:
    return Table(database, await factories.project(database))


#: Whether a worker objects; in this database, as tests share a server.
OBJECTED = """
    EXISTS (SELECT 1 FROM pg_locks JOIN pg_database d ON d.oid = database AND datname = current_database()
            WHERE locktype = 'advisory' AND mode = 'ShareLock' AND granted)
"""


async def refuse_renewals(table: Table) -> None:
    """From now on renewals fail, and nothing else: as on a full disk, where some writes find room."""
    await table.run(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'No space left on device' USING ERRCODE = 'disk_full'; END $$"
    )
    await table.run(
        "CREATE TRIGGER refuse BEFORE UPDATE ON jobs FOR EACH ROW WHEN (OLD.state = 'running' AND "
        "NEW.state = 'running' AND NEW.attempt = OLD.attempt) EXECUTE FUNCTION refuse()"
    )


class NoDoorbell:
    """For maintenance passes that ring for nobody."""

    resting = True


@pytest.fixture
def maintenance(database: Database, settings: Settings, wakeups: Wakeups) -> Maintenance:
    return Maintenance(database, settings, NoDoorbell(), wakeups)  # type: ignore[arg-type]
