"""What beat deletes when it has been kept for its time, and what it leaves alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

import httpx
import pytest

from api.app import create_app
from shared.config import Settings
from shared.jobs import retention
from shared.jobs.status import FINAL, State
from shared.queue import Doorbell
from shared.uploads.service import UploadService
from shared.wakeups import Wakeups
from tests import factories
from tests.integration.api.conftest import bearer, problem
from tests.integration.worker.conftest import Table
from tests.patience import PATIENCE
from tests.pictures import picture
from worker import maintenance as module
from worker.maintenance import Maintenance

DAY = 24 * 3600.0


@pytest.fixture
async def maintenance(table: Table, settings: Settings, wakeups: Wakeups) -> AsyncIterator[Maintenance]:
    doorbell = Doorbell(settings)
    yield Maintenance(table.database, settings, doorbell, wakeups)
    await doorbell.close()


async def age(table: Table, days: float) -> None:
    """Every final job ended so long ago."""
    await table.run(
        "UPDATE jobs SET finished_at = now() - make_interval(secs => :seconds) WHERE finished_at IS NOT NULL",
        seconds=days * DAY,
    )


async def ids(table: Table) -> set[UUID]:
    return {row.id for row in await table.ask("SELECT id FROM jobs")}


@pytest.mark.parametrize("state", sorted(FINAL))
async def test_a_final_job_goes_when_its_time_is_over(
    maintenance: Maintenance, table: Table, state: State
) -> None:
    kept_longer = await table.add(state=state, keep_seconds=2 * DAY)
    for_ever = await table.add(state=state)
    await table.add(state=state, keep_seconds=DAY)
    await age(table, 0.9)
    assert await maintenance.prune() == 0
    await age(table, 1.1)
    assert await maintenance.prune() == 1
    assert await ids(table) == {kept_longer, for_ever}
    for child in ("attempts", "job_events"):
        assert {row.job_id for row in await table.ask(f"SELECT job_id FROM {child}")} <= {
            kept_longer,
            for_ever,
        }


async def test_what_is_not_final_stays_however_old(maintenance: Maintenance, table: Table) -> None:
    for state in (State.QUEUED, State.RUNNING):
        await table.add(state=state, keep_seconds=60)
    await table.run("UPDATE jobs SET created_at = created_at - interval '1 year'")
    assert await maintenance.prune() == 0
    assert len(await ids(table)) == 2


async def test_bytes_go_first_and_then_an_artifact_is_gone(
    maintenance: Maintenance, table: Table, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass that ends after the bytes leaves the job, whose pictures answer 410; the next one deletes it."""
    monkeypatch.setattr(module, "_PRUNE_SECONDS", 0)
    monkeypatch.setattr(module, "_PRUNE_PICTURES", 2)
    job_id = await table.add(state=State.SUCCEEDED, keep_seconds=DAY)
    row = await table.get(job_id)
    pictures = [
        await factories.artifact(table.database, row, b"picture" * 1000, position=place) for place in range(3)
    ]
    await age(table, 2)
    app = create_app(settings)
    headers = bearer(await factories.key(table.database))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app=app), base_url="http://api/api/v1", headers=headers
        ) as client,
    ):

        async def seen() -> list[int]:
            return [(await client.get(f"/artifacts/{picture}")).status_code for picture in pictures]

        assert await maintenance.prune() == 0
        assert await seen() == [410, 410, 200]
        problem(await client.get(f"/artifacts/{pictures[0]}"), 410, "gone")
        assert (await client.get(f"/jobs/{job_id}")).status_code == 200
        assert await maintenance.prune() == 1
        assert await seen() == [404] * 3
        assert (await client.get(f"/jobs/{job_id}")).status_code == 404
    assert await table.ask("SELECT FROM artifact_bytes") == []


async def test_more_than_a_batch_by_two_at_once(
    maintenance: Maintenance, table: Table, settings: Settings, wakeups: Wakeups
) -> None:
    for _ in range(5):
        await table.add(state=State.CANCELLED, keep_seconds=DAY)
    await table.run(
        "INSERT INTO jobs (id, project_id, kind, model, queue, input, max_attempts, timeout_seconds, state, "
        "finished_at, keep_seconds) SELECT gen_random_uuid(), project_id, kind, model, queue, input, 5, 300, "
        "'cancelled', now(), keep_seconds FROM jobs, generate_series(1, 100)"
    )
    await age(table, 2)
    other = Doorbell(settings)
    second = Maintenance(table.database, settings, other, wakeups)
    total = 0
    while left := len(await ids(table)):
        total += sum(await asyncio.gather(maintenance.prune(), second.prune()))
        assert len(await ids(table)) < left
    assert total == 505
    await other.close()


async def test_a_job_that_somebody_holds_holds_up_nobody(maintenance: Maintenance, table: Table) -> None:
    held = await table.add(state=State.CANCELLED, keep_seconds=DAY)
    await table.add(state=State.CANCELLED, keep_seconds=DAY)
    await age(table, 2)
    async with table.database.transaction() as db:
        assert await retention.prune(db, [held]) == 1  # not committed yet
        async with asyncio.timeout(PATIENCE):
            assert await maintenance.prune() == 1
    assert await ids(table) == set()


async def test_the_index_finds_what_is_due(table: Table) -> None:
    await table.add(state=State.CANCELLED, keep_seconds=DAY)
    await table.run(
        "INSERT INTO jobs (id, project_id, kind, model, queue, input, max_attempts, timeout_seconds, state, "
        "finished_at, keep_seconds) SELECT gen_random_uuid(), project_id, kind, model, queue, input, 5, 300, "
        "'cancelled', now(), CASE WHEN n % 2 = 0 THEN 60 * n END FROM jobs, generate_series(1, 20000) AS n"
    )
    await table.run("ANALYZE jobs")
    plan = await table.ask(f"EXPLAIN {str(retention._DUE).replace(':limit', '200')}")
    lines = [line for (line,) in plan]
    # In its order: what is due first is found without a look at the others.
    assert [line for line in lines if "Index Scan using ix_jobs_kept_until" in line], plan
    assert not [line for line in lines if "Sort" in line or "Seq Scan on jobs" in line], plan
    assert "Sort" not in "".join(row[0] for row in plan), plan


async def test_uploads_go_when_nobody_uses_them_any_more(
    maintenance: Maintenance, table: Table, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PRUNE_PICTURES", 2)
    service = UploadService(table.database, settings)
    made = []
    for shade in range(4):
        receiving = service.receive(table.project_id)
        await receiving.write(picture(size=(40, 30 + shade)))
        row, _ = await receiving.complete(filename=None, digest=None)
        made.append(row.id)
    dead = service.receive(table.project_id)
    await dead.write(picture(size=(500, 450)))  # and its process ends here
    used, kept = made[:2]
    job_id = await table.add_image(state=State.SUCCEEDED)
    await table.run(
        "INSERT INTO artifacts (id, project_id, job_id, role, position, media_type, byte_size, sha256, upload_id) "
        "SELECT gen_random_uuid(), project_id, :job, 'input', 0, media_type, byte_size, sha256, id FROM uploads "
        "WHERE id = :id",
        job=job_id,
        id=used,
    )
    await maintenance.prune_uploads()
    assert len(await table.ask("SELECT id FROM uploads")) == 5
    await table.run("UPDATE uploads SET expires_at = now() - interval '1 second' WHERE id <> :id", id=kept)

    await maintenance.prune_uploads()

    assert {row.id for row in await table.ask("SELECT id FROM uploads")} == {used, kept}
    assert {row.upload_id for row in await table.ask("SELECT upload_id FROM upload_chunks")} == {used, kept}
    await table.run("DELETE FROM jobs WHERE id = :id", id=job_id)
    await maintenance.prune_uploads()
    assert {row.id for row in await table.ask("SELECT id FROM uploads")} == {kept}
