"""Totals: what beat has counted and what has ended since are every final job once, whatever happens in between."""

from __future__ import annotations

from decimal import Decimal

import pytest

from shared.jobs import search, totals
from shared.jobs.status import State
from tests import factories
from tests.integration.shared.jobs.conftest import Jobs

A_MOMENT_AGO = "UPDATE jobs SET finished_at = now() - interval '90 seconds' WHERE finished_at IS NOT NULL"


async def counted(jobs: Jobs) -> tuple[int, Decimal]:
    async with jobs.database.transaction() as db:
        rows = await totals.ended(db, jobs.project_id, None, None)
    return sum(row.jobs for row in rows), sum((row.cost_usd for row in rows), Decimal(0))


async def count(jobs: Jobs) -> int:
    async with jobs.database.transaction() as db:
        return await totals.count(db)


async def finished(jobs: Jobs, *states: State) -> None:
    for state in states:
        await factories.job(jobs.database, jobs.project_id, state=state)


async def test_every_ending_counts_once_before_and_after_beat_counts_it(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    await finished(jobs, State.SUCCEEDED, State.FAILED, State.EXPIRED)
    before = await counted(jobs)
    assert before == (3, Decimal("0.000162"))

    assert await count(jobs) == 0, "what has just ended may have neighbours that are not committed yet"
    assert await counted(jobs) == before

    monkeypatch.setattr(totals, "SETTLED_SECONDS", 0.0)
    assert await count(jobs) == 3
    assert await count(jobs) == 0
    assert await counted(jobs) == before

    await finished(jobs, State.CANCELLED)
    assert (await counted(jobs))[0] == 4


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
        assert await totals.count(one) == 1
        assert await count(jobs) == 0
    assert (await counted(jobs))[0] == 1


async def test_the_audit_finds_and_corrects_what_a_clock_that_was_set_back_hid(jobs: Jobs) -> None:
    await finished(jobs, State.SUCCEEDED)
    await jobs.run(A_MOMENT_AGO)
    await count(jobs)
    async with jobs.database.transaction() as db:
        assert await totals.audit(db) == []

    await finished(jobs, State.SUCCEEDED)
    await jobs.run(A_MOMENT_AGO.replace("90", "80"))
    # As if it had ended before the time through which beat has counted.
    await jobs.run("UPDATE progress SET through = now() - interval '70 seconds' WHERE name = 'totals'")
    assert (await counted(jobs))[0] == 1
    async with jobs.database.transaction() as db:
        assert len(await totals.audit(db)) == 1
    assert (await counted(jobs))[0] == 2


async def test_prompts_are_copied_once_they_are_settled(jobs: Jobs) -> None:
    await jobs.add(input={"prompt": "x" * 3000})
    await jobs.run("UPDATE jobs SET created_at = now() - interval '90 seconds'")
    await jobs.add(input={"prompt": "too fresh"})
    for expected in (1, 0):
        async with jobs.database.transaction() as db:
            assert await totals.copy_prompts(db, chars=search.PROMPT_CHARS) == expected
    assert [len(row.prompt) for row in await jobs.ask("SELECT prompt FROM job_prompts")] == [2000]
