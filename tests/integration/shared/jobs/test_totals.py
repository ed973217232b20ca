"""Totals: what beat has counted and what has ended since are every final job once, whatever happens in between."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy import Row, TextClause, text

from shared.config import Settings
from shared.jobs import counting, search, totals
from shared.jobs.status import FINAL, State
from tests import factories
from tests.integration.shared.jobs.conftest import Jobs
from tests.integration.shared.jobs.test_plans import FILL, explain_prepared
from tests.patience import PATIENCE

A_MOMENT_AGO = "UPDATE jobs SET finished_at = now() - interval '90 seconds' WHERE finished_at IS NOT NULL"


async def counted(jobs: Jobs) -> tuple[int, Decimal]:
    rows = [row for row in await everything(jobs) if row.state in FINAL]
    return sum(row.jobs for row in rows), sum((row.cost_usd for row in rows), Decimal(0))


async def everything(
    jobs: Jobs, since: datetime | None = None, until: datetime | None = None
) -> Sequence[Any]:
    return await totals.of_project(jobs.database.counts, jobs.project_id, since, until)


async def count(jobs: Jobs) -> int:
    async with jobs.database.transaction() as db:
        return await counting.count(db)


async def add_up(jobs: Jobs) -> int:
    async with jobs.database.transaction() as db:
        return await counting.add_up(db)


async def finished(jobs: Jobs, *states: State) -> None:
    for state in states:
        await factories.job(jobs.database, jobs.project_id, state=state)


async def test_every_ending_counts_once_before_and_after_beat_counts_it(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    await finished(jobs, State.SUCCEEDED, State.FAILED, State.EXPIRED)
    before = await counted(jobs)
    assert before == (3, Decimal("0.000162"))

    monkeypatch.setattr(counting, "SEEN_SECONDS", 60.0)
    assert await count(jobs) == 0, "what has just ended may have neighbours that are not committed yet"
    assert await counted(jobs) == before

    monkeypatch.setattr(counting, "SEEN_SECONDS", 0.0)
    assert await count(jobs) == 3
    assert await count(jobs) == 0
    assert await counted(jobs) == before

    await finished(jobs, State.CANCELLED)
    assert (await counted(jobs))[0] == 4


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has ended is counted as soon as no transaction is open that began before."""
    monkeypatch.setattr(counting, "SEEN_SECONDS", 0.0)


async def test_what_ended_seconds_ago_is_counted_where_nothing_is_open(jobs: Jobs) -> None:
    """A minute of two thousand jobs a second would be counted again for each summary."""
    await finished(jobs, State.SUCCEEDED)
    await jobs.run(A_MOMENT_AGO.replace("90", "4"))
    assert await count(jobs) == 1


@pytest.mark.usefixtures("at_once")
async def test_what_is_open_is_waited_for(jobs: Jobs) -> None:
    """Its rows will have the time when it began, in the midst of those that have ended since."""
    await finished(jobs, State.SUCCEEDED)
    await jobs.add()
    async with jobs.database.transaction() as older:
        await older.execute(
            text("UPDATE jobs SET state = 'cancelled', finished_at = now() WHERE state = 'queued'")
        )
        await finished(jobs, State.FAILED, State.FAILED)
        assert await count(jobs) == 1
        assert await count(jobs) == 0
        assert (await counted(jobs))[0] == 3
    assert await count(jobs) == 3
    assert (await counted(jobs))[0] == 4


@pytest.mark.usefixtures("at_once")
async def test_of_others_it_is_not_seen_what_is_open(jobs: Jobs) -> None:
    role = f"plain_{uuid4().hex}"
    await finished(jobs, State.SUCCEEDED)
    await jobs.run(f"CREATE ROLE {role}")
    try:
        await jobs.run(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")
        async with jobs.database.transaction() as db, jobs.database.transaction() as other:
            await other.execute(text("SELECT 1"))
            await db.execute(text(f"SET LOCAL ROLE {role}"))
            assert await counting.count(db) == 0
    finally:
        await jobs.run(f"DROP OWNED BY {role}")
        await jobs.run(f"DROP ROLE {role}")
    assert await count(jobs) == 1


@pytest.mark.usefixtures("at_once")
async def test_who_tells_nothing_may_have_something_open(jobs: Jobs, settings: Settings) -> None:
    await finished(jobs, State.SUCCEEDED)
    url = settings.database_url.get_secret_value().replace("+psycopg", "")
    async with await psycopg.AsyncConnection.connect(url, options="-c track_activities=off"):
        assert await count(jobs) == 0
    async with asyncio.timeout(PATIENCE):
        while not await count(jobs):
            await asyncio.sleep(0.01)


async def test_what_was_counted_stays_when_the_jobs_are_deleted(jobs: Jobs) -> None:
    await finished(jobs, State.SUCCEEDED)
    await jobs.run(A_MOMENT_AGO)
    await count(jobs)
    await jobs.run("DELETE FROM jobs")
    assert (await counted(jobs))[0] == 1


async def test_two_beats_count_nothing_twice(jobs: Jobs) -> None:
    await finished(jobs, State.SUCCEEDED)
    await jobs.run(A_MOMENT_AGO)
    async with jobs.database.transaction() as one:
        assert await counting.count(one) == 1
        assert await count(jobs) == 0
    assert (await counted(jobs))[0] == 1


async def test_the_audit_finds_and_corrects_what_a_clock_that_was_set_back_hid(jobs: Jobs) -> None:
    await finished(jobs, State.SUCCEEDED)
    await jobs.run(A_MOMENT_AGO)
    await count(jobs)
    async with jobs.database.transaction() as db:
        assert await counting.audit(db) == []

    await finished(jobs, State.SUCCEEDED)
    await jobs.run(A_MOMENT_AGO.replace("90", "80"))
    # As if it had ended before the time through which beat has counted.
    await jobs.run("UPDATE progress SET through = now() - interval '70 seconds' WHERE name = 'totals'")
    assert (await counted(jobs))[0] == 1
    async with jobs.database.transaction() as db:
        assert len(await counting.audit(db)) == 1
    assert (await counted(jobs))[0] == 2


async def windows(jobs: Jobs, moments: Sequence[datetime | None]) -> list[list[tuple[object, ...]]]:
    """What is counted from each moment to each."""
    found = []
    for since in moments:
        for until in moments:
            rows = await everything(jobs, since, until)
            found.append(sorted(tuple(row[:7]) for row in rows if row.state in FINAL))
    return found


@pytest.fixture
async def first_day(jobs: Jobs) -> datetime:
    """When the first of five days began: final jobs every five hours, counted by the hour, through the day before today."""
    await finished(jobs, *[State.SUCCEEDED, State.FAILED] * 12)
    await jobs.run(
        "UPDATE jobs SET finished_at = date_trunc('day', now(), 'UTC') - number * interval '5 hours' - interval '1 day' "
        "FROM (SELECT id, row_number() OVER (ORDER BY id) AS number FROM jobs) AS n WHERE n.id = jobs.id"
    )
    (row,) = await jobs.ask("SELECT date_trunc('day', min(finished_at), 'UTC') AS first FROM jobs")
    first: datetime = row.first
    moments = [None, *(first + timedelta(hours=at) for at in (0, 19, 24, 41, 90, 200))]
    uncounted = await windows(jobs, moments)
    assert await count(jobs) == 24
    assert await windows(jobs, moments) == uncounted
    return first


async def test_every_window_holds_the_same_jobs_once_days_are_added_up(
    jobs: Jobs, first_day: datetime
) -> None:
    other = await factories.project(jobs.database, "other")
    await jobs.run(
        "INSERT INTO job_totals SELECT :other, hour, kind, model, state, 7, 7 FROM job_totals", other=other
    )
    await finished(jobs, State.CANCELLED)
    moments = [None, *(first_day + timedelta(hours=at, minutes=20 * (at % 3)) for at in range(0, 170, 7))]
    moments += [first_day + timedelta(days=day) for day in range(8)]

    by_the_hour = await windows(jobs, moments)
    assert len({str(each) for each in by_the_hour}) > 50
    assert await add_up(jobs) == 5
    assert await add_up(jobs) == 0
    assert await windows(jobs, moments) == by_the_hour


async def test_days_are_read_instead_of_their_hours(jobs: Jobs, first_day: datetime) -> None:
    await add_up(jobs)
    (before,) = await windows(jobs, [None])
    noon = first_day + timedelta(hours=36)
    from_noon = (await windows(jobs, [noon, None]))[1]
    await jobs.run(
        "DELETE FROM job_totals WHERE hour NOT BETWEEN :noon AND :noon + interval '12 hours'", noon=noon
    )
    assert await windows(jobs, [None]) == [before]
    assert (await windows(jobs, [noon, None]))[1] == from_noon
    await jobs.run("DELETE FROM job_daily_totals")
    assert await windows(jobs, [None]) == [[]]


async def test_years_are_added_up_some_days_at_a_time(
    jobs: Jobs, first_day: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await windows(jobs, [None, first_day + timedelta(hours=50)])
    await jobs.run(
        "UPDATE job_totals SET hour = hour - interval '9 years' WHERE hour < :then",
        then=first_day + timedelta(days=1),
    )
    monkeypatch.setattr(counting, "DAYS", 2)
    assert [await add_up(jobs) for _ in range(4)] == [1, 2, 2, 0]
    assert (await windows(jobs, [None, first_day + timedelta(hours=50)]))[0] == before[0]


async def test_only_days_that_are_over_and_counted_are_added_up(jobs: Jobs) -> None:
    await finished(jobs, State.SUCCEEDED)
    assert await add_up(jobs) == 0, "nothing is counted yet"
    await jobs.run("UPDATE jobs SET finished_at = date_trunc('day', now(), 'UTC')")
    await jobs.run("UPDATE progress SET through = now() WHERE name = 'totals'")
    await jobs.run(
        "INSERT INTO job_totals SELECT project_id, date_trunc('hour', finished_at), kind, model, state, 1, 0 FROM jobs"
    )
    assert await add_up(jobs) == 0, "today is not over"
    assert (await counted(jobs))[0] == 1


async def test_a_day_is_added_up_again_when_the_audit_corrects_an_hour_of_it(jobs: Jobs) -> None:
    """As just after midnight, when the clock was set back before it."""
    await finished(jobs, State.SUCCEEDED)
    await jobs.run(A_MOMENT_AGO)
    await count(jobs)
    # Now lies in a day that has been added up.
    tomorrow = "date_trunc('day', now(), 'UTC') + interval '1 day'"
    await jobs.run("INSERT INTO job_daily_totals SELECT * FROM job_totals")
    await jobs.run("UPDATE job_daily_totals SET day = date_trunc('day', day, 'UTC')")
    await jobs.run(f"UPDATE progress SET through = {tomorrow}")
    assert await counted(jobs) == (1, Decimal("0.000081"))

    await finished(jobs, State.SUCCEEDED)
    await jobs.run(A_MOMENT_AGO.replace("90", "80"))
    async with jobs.database.transaction() as db:
        assert len(await counting.audit(db)) == 1
    assert await counted(jobs) == (2, Decimal("0.000162"))
    assert await add_up(jobs) == 1
    assert await counted(jobs) == (2, Decimal("0.000162"))
    assert [row.jobs for row in await jobs.ask("SELECT jobs FROM job_daily_totals")] == [2]


async def test_a_correction_waits_for_the_day_that_another_beat_adds_up(jobs: Jobs) -> None:
    await finished(jobs, State.SUCCEEDED)
    await jobs.run("UPDATE jobs SET finished_at = date_trunc('hour', now(), 'UTC')")
    await jobs.run(
        "UPDATE progress SET through = date_trunc('day', now(), 'UTC') + interval '1 day' WHERE name = 'totals'"
    )
    async with jobs.database.transaction() as one:
        assert await counting.add_up(one) == 0  # of what is not counted; its transaction is open still
        correction = asyncio.create_task(audited(jobs))
        await asyncio.sleep(0.2)
        assert not correction.done()
    assert len(await correction) == 1
    assert (await counted(jobs))[0] == 1


async def audited(jobs: Jobs) -> list[Row[Any]]:
    async with jobs.database.transaction() as db:
        return await counting.audit(db)


@pytest.mark.usefixtures("first_day")
async def test_two_beats_add_up_a_day_once(jobs: Jobs) -> None:
    async with jobs.database.transaction() as one:
        assert await counting.add_up(one) == 5
        assert await add_up(jobs) == 0
    assert (await counted(jobs))[0] == 24


async def test_prompts_are_copied_once_they_are_settled(jobs: Jobs) -> None:
    await jobs.add(input={"prompt": "x" * 3000})
    await jobs.run("UPDATE jobs SET created_at = now() - interval '90 seconds'")
    await jobs.add(input={"prompt": "too fresh"})
    for expected in (1, 0):
        async with jobs.database.transaction() as db:
            assert await counting.copy_prompts(db, chars=search.PROMPT_CHARS) == expected
    assert [len(row.prompt) for row in await jobs.ask("SELECT prompt FROM job_prompts")] == [2000]


async def plan_of(jobs: Jobs, statement: TextClause, **given: object) -> str:
    """As the connection plans it that counts."""
    given |= {"project_id": jobs.project_id, "since": "-infinity", "until": "infinity"}
    async with jobs.database.counts.apart() as db:
        return "\n".join(row[0] for row in await explain_prepared(db, "COSTS OFF", statement, given))


def indexes(plan: str) -> set[str]:
    return set(re.findall(r"(?:on|using) (ix_\w+|pk_jobs)", plan))


async def test_what_is_counted_is_found_by_its_indexes_whatever_statistics_say(jobs: Jobs) -> None:
    """Where they know of no queued jobs, the planner takes thousands for one, and sorts them; where they know of many, and
    of few jobs of this project, it would read all that the project ever had."""
    await finished(jobs, *[State.SUCCEEDED] * 20)
    await jobs.run("ANALYZE jobs")
    unaware = await plan_of(jobs, totals._OF_PROJECT)
    for name in range(20):
        project = await factories.project(jobs.database, f"other-{name}")
        await jobs.run(FILL, project=project, rows=2000)
    await jobs.run("ANALYZE jobs")
    for plan in (unaware, await plan_of(jobs, totals._OF_PROJECT)):
        assert indexes(plan) == {"ix_jobs_running", "ix_jobs_due", "ix_jobs_published", "ix_jobs_finished"}
        assert "Seq Scan" not in plan
        assert "Sort" not in plan
        assert plan.count("HashAggregate") == 4


async def test_a_batch_is_counted_by_its_index_whatever_statistics_say(jobs: Jobs) -> None:
    batch = uuid4()
    for name in range(20):
        await jobs.run(FILL, project=await factories.project(jobs.database, f"other-{name}"), rows=400)
    await jobs.run(
        "INSERT INTO batches (id, project_id, total) VALUES (:id, :project, 4000)",
        id=batch,
        project=jobs.project_id,
    )
    await jobs.run(
        "UPDATE jobs SET batch_id = :id, batch_index = 0 WHERE id IN (SELECT id FROM jobs LIMIT 4000)",
        id=batch,
    )
    await jobs.run("ANALYZE jobs")
    plan = await plan_of(jobs, totals._OF_BATCH, batch=batch)
    assert len(indexes(plan) & {"ix_jobs_batch", "ix_jobs_batch_state"}) == len(indexes(plan)) == 1
    assert "Seq Scan" not in plan
    assert "Sort" not in plan


async def test_a_job_that_ends_while_it_is_counted_counts_once(jobs: Jobs) -> None:
    """Live in one half of the statement and ended in the other: they look at one moment."""
    await jobs.add_many(200)

    async def end_them() -> None:
        for row in await jobs.ask("SELECT id FROM jobs"):
            await jobs.run(
                "UPDATE jobs SET state = 'cancelled', finished_at = now() WHERE id = :id", id=row.id
            )

    seen = set()
    async with asyncio.TaskGroup() as tasks:
        ending = tasks.create_task(end_them())
        while not ending.done():
            rows = await everything(jobs)
            assert sum(row.jobs for row in rows) == 200
            seen.add(sum(row.jobs for row in rows if row.state in FINAL))
    assert len(seen) > 10, "nothing ended in between, so this says nothing"
