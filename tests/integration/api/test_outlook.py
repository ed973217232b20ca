"""Where a queued job stands, when it will probably start, how far a running one is, and what a poll costs for that."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
from sqlalchemy import TextClause, event, text

from api.shortcut import Application
from shared.db import Database
from shared.jobs.schemas import JobView
from shared.jobs.status import State
from tests import factories
from tests.patience import PATIENCE

#: Each published a millisecond after the one before, the first ten minutes ago.
FILL = text("""
    INSERT INTO jobs (id, project_id, kind, model, priority, queue, input, max_attempts, timeout_seconds, published_at)
    SELECT gen_random_uuid(), :project, 'text.generate', 'gemini-flash', :priority, 'text.' || :priority,
           '{"prompt": "x"}', 5, 300, now() - interval '10 minutes' + n * interval '1 millisecond'
    FROM generate_series(1, :rows) AS n
""")
RUNNING = text("""
    INSERT INTO jobs (id, project_id, kind, model, queue, input, max_attempts, timeout_seconds, state, attempt,
        lease_until, lease_owner, deadline_at)
    SELECT gen_random_uuid(), :project, 'text.generate', 'gemini-flash', 'text.standard', '{"prompt": "x"}', 5, 300,
           'running', 1, now() + interval '1 hour', 'w', now() + interval '2 hours'
    FROM generate_series(1, :rows)
""")
NTH = text("""
    SELECT id FROM jobs WHERE queue = 'text.standard' AND state = 'queued'
    ORDER BY published_at OFFSET :before LIMIT 1
""")


async def fill(database: Database, project_id: UUID, rows: int, priority: str = "standard") -> None:
    async with database.transaction() as db:
        await db.execute(FILL, {"project": project_id, "rows": rows, "priority": priority})


async def nth(database: Database, before: int) -> UUID:
    async with database.transaction() as db:
        found: UUID = (await db.execute(NTH, {"before": before})).scalar_one()
    return found


async def run(database: Database, statement: str, **parameters: Any) -> None:
    async with database.transaction() as db:
        await db.execute(text(statement), parameters)


@contextmanager
def statements(app: Application, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Everything that the API asks of the database meanwhile, however it does."""
    database: Database = app.services.database
    told: list[str] = []
    execute = database.direct.execute

    async def noted(statement: TextClause, parameters: Mapping[str, Any]) -> list[Any]:
        told.append(str(statement))
        return await execute(statement, parameters)

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        told.append(statement)

    event.listen(database.engine.sync_engine, "before_cursor_execute", note)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(database.direct, "execute", noted)
            yield told
    finally:
        event.remove(database.engine.sync_engine, "before_cursor_execute", note)


async def look(client: httpx.AsyncClient, job_id: object, **headers: str) -> httpx.Response:
    answer = await client.get(f"/api/v1/jobs/{job_id}", headers=headers)
    if answer.status_code == 200:
        JobView.model_validate(answer.json())
    return answer


async def test_ten_thousand_jobs_each_know_their_place(
    client: httpx.AsyncClient, database: Database, project_id: UUID
) -> None:
    await fill(database, project_id, 10_000)
    await fill(database, project_id, 500, "interactive")
    await fill(database, project_id, 500, "batch")
    await factories.worker(database)  # a hundred slots, and all are taken
    async with database.transaction() as db:
        await db.execute(RUNNING, {"project": project_id, "rows": 100})
    places = [(await look(client, await nth(database, before))).json() for before in (0, 4999, 9999)]
    assert [job["queue_position"] for job in places] == [1, 5000, 10_000]
    starts = [datetime.fromisoformat(job["estimated_start"]["p50"]) for job in places]
    # Nobody has seen any attempt: 2.5 s as the catalogue says, a hundred at once, 500 of them first.
    waits = [(start - starts[0]).total_seconds() for start in starts]
    assert waits == pytest.approx([0, 4999 * 0.025, 9999 * 0.025], abs=3)
    for job in places:
        assert job["estimated_start"]["p50"] <= job["estimated_start"]["p90"]
    new = (await client.post("/api/v1/jobs", json=factories.TEXT_JOB)).json()
    assert new["queue_position"] == 10_001, "known without asking, while somebody asks"


async def test_polls_share_what_is_read_and_only_queued_ones_read_it(
    app: Application,
    client: httpx.AsyncClient,
    database: Database,
    project_id: UUID,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await fill(database, project_id, 2000)
    await factories.worker(database)
    queued = await nth(database, 1000)
    running = await factories.job(database, project_id, state=State.RUNNING)
    final = await factories.job(database, project_id, state=State.SUCCEEDED)
    await look(client, queued)
    with statements(app, monkeypatch) as told:
        for _ in range(25):
            await look(client, running.id)
            await look(client, final.id)
    assert len(told) == 50, "the poll's own statement and no other"
    began = time.monotonic()
    with statements(app, monkeypatch) as told:
        for _ in range(50):
            assert (await look(client, queued)).json()["queue_position"] == 1001
    seconds = time.monotonic() - began
    assert sum("timestamptz_send" in statement for statement in told) <= seconds + 1, (
        "once for all of a second"
    )
    assert len(told) <= 50 + 3 * (seconds + 1)
    with statements(app, monkeypatch) as told:
        await asyncio.sleep(1.5)
    assert told == [], "nobody polls, nothing is read"


async def test_a_client_that_knows_its_place_learns_of_a_better_one(
    app: Application, client: httpx.AsyncClient, database: Database, project_id: UUID
) -> None:
    await fill(database, project_id, 20)
    await factories.worker(database)
    job_id = await nth(database, 10)
    first = await look(client, job_id)
    known = {"If-None-Match": first.headers["etag"]}
    assert (await look(client, job_id, **known)).status_code == 304
    await run(database, "DELETE FROM jobs WHERE id <> :id", id=job_id)
    async with asyncio.timeout(PATIENCE):
        while (moved := await look(client, job_id, **known)).status_code == 304:
            await asyncio.sleep(0.1)
    assert (first.json()["queue_position"], moved.json()["queue_position"]) == (11, 1)
    # Who waits for a change of the job is not woken for that.
    waited = await look(client, job_id, **known, Prefer="wait=1")
    assert waited.headers["preference-applied"] == "wait=1"
    assert waited.elapsed.total_seconds() > 0.9


async def test_jobs_that_are_in_no_queue_have_no_place(
    client: httpx.AsyncClient, database: Database, project_id: UUID
) -> None:
    await factories.worker(database)
    due = datetime.now(UTC) + timedelta(hours=1)
    scheduled = await look(client, (await factories.job(database, project_id, scheduled_at=due)).id)
    assert scheduled.json()["queue_position"] is None
    start = scheduled.json()["estimated_start"]
    assert [datetime.fromisoformat(start[name]) for name in ("p50", "p90")] == [due, due]
    assert 55 <= int(scheduled.headers["retry-after"]) <= 60
    gated = await factories.job(database, project_id)
    await run(
        database,
        "UPDATE jobs SET published_at = NULL, waiting_reason = 'rate_limited', scheduled_at = now() + interval '20 s' "
        "WHERE id = :id",
        id=gated.id,
    )
    held = await look(client, gated.id)
    assert (held.json()["queue_position"], held.json()["estimated_start"]) == (None, None)
    assert 20 <= int(held.headers["retry-after"]) <= 22, "not before its gate opens, and not all at once"


async def test_without_workers_there_is_a_place_and_no_estimate(
    client: httpx.AsyncClient, database: Database, project_id: UUID
) -> None:
    await fill(database, project_id, 5)
    job = (await look(client, await nth(database, 4))).json()
    assert (job["waiting_reason"], job["queue_position"], job["estimated_start"]) == ("no_workers", 5, None)


async def test_a_running_job_shows_how_far_it_is(
    client: httpx.AsyncClient, database: Database, project_id: UUID
) -> None:
    for seconds in range(1, 11):
        row = await factories.job(database, project_id, state=State.SUCCEEDED)
        await run(
            database,
            "UPDATE attempts SET claimed_at = finished_at - make_interval(secs => :seconds) WHERE job_id = :id",
            seconds=seconds,
            id=row.id,
        )
    row = await factories.job(database, project_id, state=State.RUNNING)
    first = await look(client, row.id)
    assert first.json()["queue_position"] is None
    await asyncio.sleep(0.3)  # the first poll does not wait for how long others took
    again = await look(client, row.id)
    progress = again.json()["progress"]
    assert (progress["p50"], progress["p90"]) == pytest.approx((5.5, 9.1))
    assert 0.3 <= progress["elapsed"] < 5
    assert int(again.headers["retry-after"]) in {1, 2}
    known = {"If-None-Match": again.headers["etag"]}
    assert (await look(client, row.id, **known)).status_code == 304, "that time passes is no news"


async def test_what_cannot_be_read_is_left_out(
    app: Application,
    client: httpx.AsyncClient,
    database: Database,
    project_id: UUID,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await fill(database, project_id, 5)
    await factories.worker(database)
    job_id = await nth(database, 4)

    async def away(_: object) -> None:
        raise TimeoutError

    with monkeypatch.context() as patch:
        patch.setattr("shared.jobs.backlog.read", away)
        blind = await look(client, job_id)
    assert blind.status_code == 200
    assert (blind.json()["queue_position"], blind.json()["estimated_start"]) == (None, None)
    await asyncio.sleep(1.1)
    assert (await look(client, job_id)).json()["queue_position"] == 5
