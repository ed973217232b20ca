"""Lists: every combination of filters against a plain scan, page by page."""

from __future__ import annotations

from itertools import product
from uuid import UUID

import pytest
from sqlalchemy import text

from shared.jobs import counting, search
from shared.jobs.list_schemas import JobFilter
from shared.jobs.status import State
from tests import factories
from tests.integration.shared.jobs.conftest import Jobs

_CHOICES: dict[str, list[object]] = {
    "state": [[], ["failed"], ["queued", "succeeded"]],
    "model": [None, "gemini-flash", "nano-banana"],
    "priority": [None, "batch"],
    "tag": [[], ["a"], ["a", "b"]],
    "metadata": [[], ["user=1"]],
    "q": [None, "Number 1", "100%"],
}


async def listed(jobs: Jobs, wanted: JobFilter, limit: int = 3) -> list[UUID]:
    found: list[UUID] = []
    after = None
    while True:
        async with jobs.database.transaction() as db:
            page = await search.page(db, jobs.project_id, wanted, limit=limit, after=after)
        assert len(page.rows) <= limit
        found += [row.id for row in page.rows]
        after = page.next
        if after is None:
            return found


async def some(jobs: Jobs) -> None:
    states = [State.SUCCEEDED, State.FAILED, State.QUEUED, State.RUNNING]
    for number in range(24):
        image = number % 5 == 0
        await factories.job(
            jobs.database,
            jobs.project_id,
            state=states[number % 4],
            kind="image.generate" if image else "text.generate",
            model="nano-banana" if image else "gemini-flash",
            priority="batch" if number % 3 == 0 else "standard",
            input={"prompt": f"number {number}" + (" 100%" if number % 6 == 0 else " 100x")},
            tags=["a", "b"][: number % 3],
            metadata={"user": str(number % 2)},
        )


def matches(job: dict[str, object], wanted: JobFilter) -> bool:
    tags, metadata, prompt = job["tags"], job["metadata"], job["prompt"]
    assert isinstance(tags, list) and isinstance(metadata, dict) and isinstance(prompt, str)
    return (
        (not wanted.state or job["state"] in wanted.state)
        and wanted.model in {None, job["model"]}
        and wanted.priority in {None, job["priority"]}
        and set(wanted.tag) <= set(tags)
        and all(metadata.get(pair.partition("=")[0]) == pair.partition("=")[2] for pair in wanted.metadata)
        and (wanted.q is None or wanted.q.lower() in prompt.lower())
    )


@pytest.mark.parametrize(("candidates", "copied"), [(2000, False), (4, False), (4, True)])
async def test_every_combination_answers_as_a_plain_scan_would(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch, candidates: int, copied: bool
) -> None:
    """With few candidates a page ends early and the next goes on; with prompts copied the trigram index answers."""
    monkeypatch.setattr(search, "_CANDIDATES", candidates)
    await some(jobs)
    if copied:
        monkeypatch.setattr(counting, "SETTLED_SECONDS", 0.0)
        monkeypatch.setattr(search, "_HURRY", text("SET LOCAL statement_timeout = 5000"))
        async with jobs.database.transaction() as db:
            assert await counting.copy_prompts(db, chars=search.PROMPT_CHARS) == 24
    rows = await jobs.ask(
        "SELECT *, input ->> 'prompt' AS prompt FROM jobs ORDER BY created_at DESC, id DESC"
    )
    every = [dict(row._mapping) for row in rows]
    for values in product(*_CHOICES.values()):
        wanted = JobFilter.model_validate(dict(zip(_CHOICES, values, strict=True)))
        assert await listed(jobs, wanted) == [job["id"] for job in every if matches(job, wanted)], wanted


async def test_a_window_of_time(jobs: Jobs) -> None:
    await some(jobs)
    rows = await jobs.ask("SELECT id, created_at FROM jobs ORDER BY created_at DESC")
    window = {
        "created_after": rows[9].created_at.isoformat(),
        "created_before": rows[4].created_at.isoformat(),
    }
    assert await listed(jobs, JobFilter.model_validate(window)) == [row.id for row in rows[5:10]]


async def test_the_trigram_index_is_asked_no_longer_than_it_may_take(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the page ends where the walk did, and the next one goes on from there."""
    monkeypatch.setattr(search, "_CANDIDATES", 4)
    monkeypatch.setattr(search, "_HURRY", text("SET LOCAL statement_timeout = 1"))
    monkeypatch.setattr(search, "_PROMPTS_THROUGH", text("SELECT now() AS through"))
    await some(jobs)
    await jobs.run(
        "CREATE FUNCTION slow(uuid) RETURNS boolean LANGUAGE sql AS 'SELECT pg_sleep(0.1) IS NOT NULL'"
    )
    await jobs.run("INSERT INTO job_prompts SELECT id, project_id, created_at, input ->> 'prompt' FROM jobs")
    await jobs.run("ALTER TABLE job_prompts RENAME TO prompts")
    await jobs.run("CREATE VIEW job_prompts AS SELECT * FROM prompts WHERE slow(job_id)")
    found = await listed(jobs, JobFilter(q="number 1"))
    assert len(found) == 11
