"""Gates across workers: a provider that refuses is left in peace, and its jobs wait without using attempts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text
from uuid_utils.compat import uuid7

from shared.config import Settings
from shared.db import Database
from shared.jobs import queries
from shared.queue import Doorbell
from tests import factories
from tests.conftest import SettingsFactory
from tests.contract.conftest import RunningSimulator, started_simulator
from tests.integration.worker.conftest import Worker, Workers
from worker.maintenance import Maintenance

MODEL = "gemini-flash"
UPSTREAM = "gemini-3.8-flash"


@pytest.fixture
def simulator() -> Iterator[RunningSimulator]:
    """One of the test's own: it refuses what is over a limit."""
    with started_simulator("--latency-scale", "0") as running:
        yield running


@pytest.fixture
def settings(make_settings: SettingsFactory, simulator: RunningSimulator) -> Settings:
    return make_settings(
        simulator_url=simulator.url,
        retry_base_seconds=0.01,
        retry_cap_seconds=0.01,
        provider_pause_seconds=0.2,
        provider_failures_to_pause=3,
    )


#: Calls that one worker has under way at most.
SLOTS = 10


class Pump:
    """What broker and beat do for workers, without a broker: rings go straight to one of them in turn."""

    def __init__(self, database: Database, settings: Settings, workers: list[Worker]) -> None:
        self._workers = workers
        self._running: set[asyncio.Task[str]] = set()
        self._turn = 0
        self._slots = [asyncio.Semaphore(SLOTS) for _ in workers]
        doorbell = Doorbell(settings)
        doorbell.ring = self._ring_all  # type: ignore[method-assign,assignment]
        self._maintenance = Maintenance(database, settings, doorbell, workers[0].wakeups)

    async def until_all_final(self, database: Database, timeout: float) -> None:
        async with asyncio.timeout(timeout):
            while await _count(database, "state NOT IN ('succeeded', 'failed', 'cancelled', 'expired')"):
                await self._maintenance.dispatch_due()
                await asyncio.sleep(0.05)

    async def tend(self) -> None:
        await self._maintenance.tend_gates()

    async def _ring_all(self, jobs: list[tuple[UUID, str]]) -> list[UUID]:
        for job_id, _ in jobs:
            self._turn += 1
            task = asyncio.create_task(self._run(self._turn % len(self._workers), job_id))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        return []

    async def _run(self, worker: int, job_id: UUID) -> str:
        async with self._slots[worker]:
            return await self._workers[worker].run(job_id)


async def _count(database: Database, where: str) -> int:
    async with database.transaction() as db:
        found: int = (await db.execute(text(f"SELECT count(*) FROM jobs WHERE {where}"))).scalar_one()
        return found


async def _submit(database: Database, count: int, prompt: str = "hello") -> None:
    project = await factories.project(database)
    rows: list[dict[str, Any]] = [
        {
            "id": uuid7(),
            "project_id": project,
            "kind": "text.generate",
            "model": MODEL,
            "priority": "standard",
            "queue": "text.standard",
            "input": {"prompt": prompt},
            "warnings": [],
            "max_attempts": 3,
            "timeout_seconds": 30.0,
            "on_unknown": "retry",
            "scheduled_at": None,
            "expires_at": None,
        }
        for _ in range(count)
    ]
    async with database.transaction() as db:
        await queries.submit(db, rows)
        await db.execute(text("UPDATE jobs SET published_at = NULL"))


async def test_a_configured_limit_is_held_across_workers(
    database: Database, settings: Settings, simulator: RunningSimulator, workers: Workers
) -> None:
    simulator.configure(rpm={UPSTREAM: 120}, rate_window=60)
    limited = settings.model_copy(update={"model_limits": f"{MODEL}=rpm:120"})
    await _submit(database, 12)
    async with AsyncExitStack() as stack:
        made = [await stack.enter_async_context(workers(name=name)) for name in ("a", "b")]
        pump = Pump(database, limited, made)
        await pump.tend()
        await pump.until_all_final(database, timeout=30)
    assert await _count(database, "state = 'succeeded'") == 12
    assert simulator.calls()["total"] == 12, "not one call was refused"


async def test_a_storm_against_an_unknown_limit_finishes_with_few_refused_calls(
    database: Database, settings: Settings, simulator: RunningSimulator, workers: Workers
) -> None:
    # 60 calls in any 3 seconds, which the provider names when it refuses (as 1,200 a minute).
    simulator.configure(rpm={UPSTREAM: 60}, rate_window=3)
    await _submit(database, 120)
    async with AsyncExitStack() as stack:
        made = [await stack.enter_async_context(workers(name=name)) for name in ("a", "b", "c")]
        await Pump(database, settings, made).until_all_final(database, timeout=60)
    assert await _count(database, "state = 'succeeded'") == 120
    refused = simulator.calls()["total"] - 120
    # One wave of calls learns of the limit together; after that, only probes meet a window that is still full.
    assert refused <= 3 * SLOTS + 10, refused
    assert await _count(database, "attempt - snoozes <> 1") == 0, "a refused call uses up no attempt"


async def test_jobs_of_a_paused_model_wait_without_attempts_and_say_why(
    database: Database, settings: Settings, simulator: RunningSimulator, workers: Workers
) -> None:
    # The refusal names a limit of 20 a minute: 3 s lie between any two calls after it.
    await _submit(database, 1, prompt="[[sim:fault=429-retryinfo:2;times=1]]")
    await _submit(database, 1)
    async with workers() as worker:
        pump = Pump(database, settings, [worker])
        async with database.transaction() as db:
            first = (
                await db.execute(text("SELECT id FROM jobs WHERE input->>'prompt' LIKE '%429%'"))
            ).scalar_one()
        await worker.run(first)
        await pump._maintenance.dispatch_due()
        await asyncio.sleep(0.3)
        assert simulator.calls()["total"] == 1, "the pause holds for every job of the model"
        async with database.transaction() as db:
            ids = [row.id for row in await db.execute(text("SELECT id FROM jobs"))]
            await worker.run(next(job_id for job_id in ids if job_id != first))
            views = await queries.get(db, ids)
        assert simulator.calls()["total"] == 1
        assert views[first].waiting_reason == "rate_limited"
        started = time.monotonic()
        await pump.until_all_final(database, timeout=60)
        assert time.monotonic() - started > 1
    assert await _count(database, "state = 'succeeded'") == 2


async def test_a_provider_that_is_down_is_probed_not_stormed(
    database: Database, settings: Settings, simulator: RunningSimulator, workers: Workers
) -> None:
    simulator.configure(fault_rates={"503": 1.0})
    await _submit(database, 50)
    async with AsyncExitStack() as stack:
        made = [await stack.enter_async_context(workers(name=name)) for name in ("a", "b")]
        pump = Pump(database, settings, made)
        waiting = asyncio.create_task(pump.until_all_final(database, timeout=60))
        await asyncio.sleep(3)
        down = simulator.calls()["total"]
        simulator.configure(fault_rates={})
        await waiting
    assert await _count(database, "state = 'succeeded'") == 50
    # One wave before anybody knew, then a probe each pause: 0.2, 0.4, 0.8, 1.6 s …
    assert down <= 2 * SLOTS + 10, down


async def test_answers_that_refuse_the_request_open_a_recovering_gate(
    database: Database, settings: Settings, simulator: RunningSimulator, workers: Workers
) -> None:
    await _submit(database, 1, prompt="[[sim:fault=429;times=1]]")
    await _submit(database, 30, prompt="[[sim:fault=safety]]")
    async with workers() as worker:
        pump = Pump(database, settings, [worker])
        await pump.until_all_final(database, timeout=60)
    async with database.transaction() as db:
        allowance = (await db.execute(text("SELECT max(allowance) FROM model_gates"))).scalar_one()
    assert allowance is None or allowance >= 8, "the provider answered every time: it is well"


async def test_a_client_in_a_hurry_pauses_nobody(
    database: Database, settings: Settings, simulator: RunningSimulator, workers: Workers
) -> None:
    await _submit(database, 4, prompt="[[sim:latency=5]]")
    async with database.transaction() as db:
        await db.execute(text("UPDATE jobs SET timeout_seconds = 0.2, max_attempts = 1"))
    async with workers() as worker:
        await Pump(database, settings, [worker]).until_all_final(database, timeout=60)
    assert await _count(database, "state = 'failed'") == 4
    async with database.transaction() as db:
        assert (await db.execute(text("SELECT count(*) FROM model_gates"))).scalar_one() == 0
