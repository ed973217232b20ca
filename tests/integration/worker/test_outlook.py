"""What clients are told of a real queue, against what then happens: a worker process drains it, calls take a fixed time."""

from __future__ import annotations

import asyncio
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from uuid_utils.compat import uuid7

from api.app import create_app
from shared.config import Settings
from shared.jobs import queries
from shared.queue import Doorbell
from tests import factories
from tests.conftest import SettingsFactory
from tests.contract.conftest import RunningSimulator
from tests.integration.worker.conftest import Table
from tests.integration.worker.processes import WORKER, Process, environment_of

pytestmark = pytest.mark.timeout(90)

JOBS = 600
#: Twenty calls of 250 ms at once: 80 jobs a second, which a machine with little time to spare reaches too.
LATENCY = "[[sim:latency=0.25]]"


@pytest.fixture
def settings(make_settings: SettingsFactory, simulator: RunningSimulator) -> Settings:
    return make_settings(simulator_url=simulator.url, worker_concurrency=20)


async def submit(table: Table, doorbell: Doorbell, count: int) -> list[UUID]:
    """Jobs in the order in which they will be served: one statement and one batch of messages for every ten."""
    ids: list[UUID] = []
    for _ in range(0, count, 10):
        rows = [
            {
                "id": uuid7(),
                "project_id": table.project_id,
                **factories.TEXT_JOB,
                "priority": "standard",
                "queue": "text.standard",
                "input": {"prompt": LATENCY},
                "warnings": [],
                "max_attempts": 5,
                "timeout_seconds": 300.0,
                "on_unknown": "retry",
                "scheduled_at": None,
                "expires_at": None,
            }
            for _ in range(10)
        ]
        async with table.database.transaction() as db:
            await queries.submit(db, rows)
        assert await doorbell.ring([(row["id"], "text.standard") for row in rows]) == []
        ids += [row["id"] for row in rows]
    return ids


async def test_places_are_real_and_estimates_are_near(
    settings: Settings, table: Table, tmp_path: Path
) -> None:
    app, doorbell = create_app(settings), Doorbell(settings)
    key = await factories.key(table.database)
    client = httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app),
        base_url="http://api",
        headers={"Authorization": f"Bearer {key}"},
    )

    async def look(job_id: UUID) -> dict[str, Any]:
        found: dict[str, Any] = (await client.get(f"/api/v1/jobs/{job_id}")).json()
        return found

    async with app.router.lifespan_context(app), client:
        ids = await submit(table, doorbell, JOBS)
        assert (await look(ids[-1]))["queue_position"] in range(JOBS - 9, JOBS + 1)
        with Process(WORKER, environment_of(settings), tmp_path / "worker.log"):
            # Told once it has been seen how long attempts take: before, the catalogue's 2.5 s count.
            await table.until("(SELECT count(*) FROM jobs WHERE finished_at IS NOT NULL) > 80")
            await asyncio.sleep(1.2)
            await look(ids[-1])
            await asyncio.sleep(0.5)
            (now,) = await table.ask("SELECT now() AS now")
            asked = now.now
            told = {job_id: await look(job_id) for job_id in (ids[400], ids[500], ids[-1])}
            places = []
            while (job := await look(ids[-1]))["state"] == "queued":
                places.append(job["queue_position"])
                await asyncio.sleep(0.05)
            await table.until("NOT EXISTS (SELECT 1 FROM jobs WHERE finished_at IS NULL)")
    await doorbell.close()
    assert places == sorted(places, reverse=True), "it only comes nearer"
    assert len(set(places)) > 2
    for job_id, job in told.items():
        assert job["state"] == "queued", "the machine is too fast for this test"
        (row,) = await table.ask("SELECT claimed_at FROM attempts WHERE job_id = :id", id=job_id)
        estimate = datetime.fromisoformat(job["estimated_start"]["p50"])
        waited, foretold = (row.claimed_at - asked).total_seconds(), (estimate - asked).total_seconds()
        assert waited / 3 - 1 < foretold < waited * 3 + 1, f"told {foretold:.1f} s, waited {waited:.1f} s"
