"""What the statements cost when the table has grown: indexes are used, and a renewal touches none."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any
from uuid import UUID, uuid4

import pytest
from psycopg.sql import Literal
from sqlalchemy import TextClause, text

from shared import prepared
from shared.config import Settings
from shared.db import Database
from shared.jobs import queries
from shared.prepared import PreparedConnection
from tests.conftest import SettingsFactory
from tests.integration.shared.jobs.conftest import Jobs, ending

ROWS = 20_000
#: Mostly finished, as a table that has been used for a while: 200 running, 200 queued, 50 due, 50 expiring.
FILL = """
    INSERT INTO jobs (id, project_id, kind, model, queue, input, max_attempts, timeout_seconds, state, attempt,
        created_at, published_at, scheduled_at, expires_at, finished_at, result, lease_until, lease_owner, deadline_at)
    SELECT gen_random_uuid(), :project, 'text.generate', 'gemini-flash', 'text.standard', '{"prompt": "x"}', 5, 300,
        state, CASE WHEN state = 'queued' THEN 0 ELSE 1 END, now() - n * interval '1 second',
        CASE WHEN state = 'queued' AND n % 4 <> 0 THEN now() - n * interval '1 millisecond' END,
        now() - n * interval '1 millisecond', CASE WHEN n % 4 = 1 THEN now() + n * interval '1 hour' END,
        CASE WHEN state = 'succeeded' THEN now() END, CASE WHEN state = 'succeeded' THEN jsonb_build_object('text', n) END,
        CASE WHEN state = 'running' THEN now() + interval '30 seconds' END,
        CASE WHEN state = 'running' THEN 'w' END, CASE WHEN state = 'running' THEN now() + interval '300 seconds' END
    FROM (SELECT n, CASE WHEN n <= 200 THEN 'queued' WHEN n <= 400 THEN 'running' ELSE 'succeeded' END AS state
          FROM generate_series(1, :rows) AS n) AS s
"""


#: What runs on ``shared.direct``.
DIRECT = (
    queries._GET,
    queries._CLAIM,
    queries._LEFT,
    queries._SENT,
    queries._PRESENT,
    queries._RENEW,
    queries._FINISH,
    queries._RECORDED,
    queries._SUBMIT,
)


@pytest.fixture
def settings(make_settings: SettingsFactory) -> Settings:
    return make_settings()


@pytest.fixture
async def grown(database: Database, jobs: Jobs) -> AsyncIterator[Jobs]:
    await jobs.run(FILL, project=jobs.project_id, rows=ROWS)
    await jobs.run(
        "INSERT INTO attempts (job_id, number, project_id, worker, outcome, finished_at) "
        "SELECT id, 1, project_id, 'w', CASE state WHEN 'succeeded' THEN 'succeeded' END, finished_at "
        "FROM jobs WHERE attempt = 1"
    )
    for table in ("jobs", "attempts", "projects"):
        await jobs.run(f"ANALYZE {table}")
    yield jobs


async def plan(jobs: Jobs, statement: TextClause | str, **parameters: Any) -> str:
    return "\n".join(row[0] for row in await explain(jobs, "COSTS OFF", statement, parameters))


async def explain(
    jobs: Jobs, how: str, statement: TextClause | str, parameters: Mapping[str, Any]
) -> Sequence[Any]:
    """As the connections plan that run this statement; where it is run, nothing stays."""
    if isinstance(statement, TextClause) and statement in DIRECT:
        async with jobs.database.direct.apart() as direct:
            return await explain_prepared(direct, how, statement, parameters)
    async with jobs.database.transaction() as db:
        rows = (await db.execute(text(f"EXPLAIN ({how}) {statement}"), parameters)).all()
        await db.rollback()
        return rows


async def explain_prepared(
    direct: PreparedConnection, how: str, statement: TextClause, parameters: Mapping[str, Any]
) -> Sequence[Any]:
    """The generic plan, which has never seen a value, as it was first made. The transaction is the caller's to end."""
    name, _ = await direct.prepare(statement, parameters)
    _, parts = prepared._compiled(statement)
    given = ", ".join(Literal(parameters[part]).as_string(direct._connection) for part in parts)
    cursor = await direct._connection.execute(f"EXPLAIN ({how}) EXECUTE {name.decode()}({given})")
    return await cursor.fetchall()


async def ids_of(jobs: Jobs, state: str, count: int) -> list[UUID]:
    rows = await jobs.ask("SELECT id FROM jobs WHERE state = :state LIMIT :count", state=state, count=count)
    return [row.id for row in rows]


async def test_hot_statements_use_their_indexes(grown: Jobs) -> None:
    await check_hot_statements(grown)


Lookups = dict[str, tuple[TextClause, dict[str, Any], str]]


def hot_statements(grown: Jobs, queued: Sequence[UUID], running: Sequence[UUID]) -> Lookups:
    """Each with parameters, and the index by which it finds its rows."""
    sent = [{"job_id": job_id, "number": 1, "estimate": "0"} for job_id in running]
    return {
        "get": (queries._GET, {"ids": queued}, "pk_jobs"),
        "claim": (
            queries._CLAIM,
            {
                "ids": queued,
                "worker": "w",
                "lease": 30,
                "grace": 10,
                "noted": ["text.generate"],
                "through_gate": False,
            },
            "pk_jobs",
        ),
        "sent": (queries._SENT, {"rows": queries._json(sent)}, "(pk_jobs|ix_jobs_running)"),
        "present": (
            queries._PRESENT,
            {"ids": running, "numbers": [1] * 20},
            "(pk_jobs|ix_jobs_running)",
        ),
        "recorded": (
            queries._RECORDED,
            {"id": running[0], "number": 1, "outcome": "succeeded"},
            "(pk|uq)_attempts",
        ),
        "renew": (
            queries._RENEW,
            {"ids": running, "numbers": [1] * 20, "lease": 30},
            "(pk_jobs|ix_jobs_running)",
        ),
        "finish": (
            queries._FINISH,
            {"rows": queries._json([ending(i) for i in running])},
            "(pk_jobs|ix_jobs_running)",
        ),
        "submit": (queries._SUBMIT, {"rows": queries._json([grown.row() for _ in range(20)])}, ""),
        "left": (queries._LEFT, {"ids": queued}, "pk_jobs"),
        "at gates": (queries._AT_GATES, {"ids": queued}, "pk_jobs"),
        "park": (queries._PARK, {"ids": queued, "until": None, "reason": "rate_limited"}, "pk_jobs"),
        "published": (queries._PUBLISHED, {"model": "gemini-flash"}, "ix_jobs_published"),
        "release": (queries._RELEASE, {"model": "gemini-flash", "limit": 10}, "ix_jobs_due"),
        "cancel": (queries._CANCEL, {"ids": queued, "project_id": grown.project_id}, "pk_jobs"),
        "result": (queries._RESULT, {"id": queued[0], "project_id": grown.project_id}, "pk_jobs"),
        "attempts": (queries._ATTEMPTS, {"id": running[0]}, "pk_attempts"),
        "unpublish": (queries._UNPUBLISH, {"ids": queued}, "pk_jobs"),
        "dispatch due": (queries._DISPATCH_DUE, {"limit": 10}, "ix_jobs_due"),
        "stale queues": (queries._STALE_QUEUES, {"after": 15}, "ix_jobs_published"),
        "republish": (
            queries._REPUBLISH,
            {"queue": "text.standard", "after": 0.05, "limit": 10},
            "ix_jobs_published",
        ),
        "lock lost": (queries._LOCK_LOST, {"limit": 500, "spared": [7]}, "ix_jobs_running"),
        "read lost": (queries._READ_LOST, {"ids": running}, "(pk|uq)_attempts"),
        "expire": (queries._EXPIRE, {"limit": 500}, "ix_jobs_expiring"),
    }


async def check_hot_statements(grown: Jobs) -> None:
    """Each finds its rows by an index, and reads no more rows and pages than jobs that are not finished explain."""
    queued, running = await ids_of(grown, "queued", 20), await ids_of(grown, "running", 20)
    for name, (statement, parameters, index) in hot_statements(grown, queued, running).items():
        found = await plan(grown, statement, **parameters)
        assert re.search(index, found), f"{name}:\n{found}"
        assert not re.search(r"Seq Scan on (jobs|attempts)\b", found), f"{name}:\n{found}"
        rows, pages = await read(grown, statement, **parameters)
        # A batch of 20 has nothing to do with the 200 that are running.
        most = 20 if statement in DIRECT else 600
        assert rows <= most, f"{name}: a scan reads {rows} rows"
        assert pages <= 1000, f"{name}: a step reads {pages} pages"


async def test_plans_that_were_made_on_empty_tables_look_rows_up_all_the_same(jobs: Jobs) -> None:
    """They stay until statistics are taken, which may be a minute and a hundred thousand jobs later."""
    nobody = [uuid4()]
    async with jobs.database.direct.apart() as direct:
        for statement, parameters, _ in hot_statements(jobs, nobody, nobody).values():
            if statement in DIRECT:
                await explain_prepared(direct, "COSTS OFF", statement, parameters)
        await jobs.run(FILL, project=jobs.project_id, rows=ROWS)
        await jobs.run(
            "INSERT INTO attempts (job_id, number, project_id, worker) SELECT id, 1, project_id, 'w' FROM jobs WHERE attempt = 1"
        )
        queued, running = await ids_of(jobs, "queued", 20), await ids_of(jobs, "running", 20)
        for name, (statement, parameters, _) in hot_statements(jobs, queued, running).items():
            if statement in DIRECT:
                [[[found]]] = await explain_prepared(direct, _READ, statement, parameters)
                rows, _ = looked_at(found)
                assert rows <= 20, f"{name}: a scan reads {rows} rows"


_READ = "ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON"


async def read(jobs: Jobs, statement: TextClause, **parameters: Any) -> tuple[int, int]:
    """Rows that the greediest scan looked at, thrown away ones included, and pages of the greediest step. Nothing stays."""
    [[[found]]] = await explain(jobs, _READ, statement, parameters)
    return looked_at(found)


def looked_at(found: dict[str, Any]) -> tuple[int, int]:
    """Of one explanation: as ``read`` says."""
    steps = list(_steps(found["Plan"]))
    pages = max(step["Shared Hit Blocks"] + step["Shared Read Blocks"] for step in steps)
    return max((_looked_at(step) for step in steps if "Scan" in step["Node Type"]), default=0), pages


def _steps(step: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield step
    for part in step.get("Plans", ()):
        yield from _steps(part)


def _looked_at(scan: dict[str, Any]) -> int:
    thrown_away = scan.get("Rows Removed by Filter", 0) + scan.get("Rows Removed by Index Recheck", 0)
    return int(scan["Actual Loops"] * (scan["Actual Rows"] + thrown_away))


async def test_a_page_of_jobs_reads_the_index_in_order(grown: Jobs) -> None:
    middle = (
        await grown.ask("SELECT created_at, id FROM jobs ORDER BY created_at DESC OFFSET 5000 LIMIT 1")
    )[0]
    found = await plan(
        grown,
        f"SELECT {queries.VIEW} FROM jobs j WHERE j.project_id = :project AND (j.created_at, j.id) < (:created_at, :id) "
        "ORDER BY j.created_at DESC, j.id DESC LIMIT 50",
        project=grown.project_id,
        created_at=middle.created_at,
        id=middle.id,
    )
    assert "ix_jobs_project_newest" in found
    assert "Sort" not in found


async def test_renewals_are_heap_only(jobs: Jobs) -> None:
    """An update that touches an index writes to every index of the table: with leases in one, six times as much."""
    ids = await jobs.add_many(50)
    await jobs.claim(*ids)
    before = await counters(jobs)
    for _ in range(4):
        await jobs.renew(*((job_id, 1) for job_id in ids), lease=60)
    after = await counters(jobs)
    updates, heap_only = after[0] - before[0], after[1] - before[1]
    assert updates == 200
    # A page that was filled a moment ago has no room yet for some; with an index on the lease there would be none.
    assert heap_only >= 140, f"{heap_only} of {updates}"


async def counters(jobs: Jobs) -> tuple[int, int]:
    async with jobs.database.transaction() as db:
        await db.execute(text("SELECT pg_stat_force_next_flush()"))
    # The connection flushes when it is idle again; other ones may have counted too.
    rows = await jobs.ask("SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'jobs'")
    return rows[0].n_tup_upd, rows[0].n_tup_hot_upd


async def test_a_batch_of_a_thousand_is_one_statement_of_reasonable_time(jobs: Jobs) -> None:
    """No plan that compares every row with every other: that would take a minute."""
    ids = await jobs.add_many(1000)
    await jobs.run("ANALYZE jobs")
    assert len(await jobs.claim(*ids)) == 1000
    assert len(await jobs.send(*ids)) == 1000
    assert len(await jobs.renew(*((job_id, 1) for job_id in ids))) == 1000
    assert len(await jobs.finish(*(ending(job_id) for job_id in ids))) == 1000
