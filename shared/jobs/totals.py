"""Counts and costs of a project's jobs, exact and in bounded work.

Jobs that have ended are counted once, by beat, into one row for each project, hour, kind, model and state; the hours of
a day that is over are added up into one row for the day, so that years are a few thousand rows. What ended since
(``progress`` says since when) is counted when somebody asks, and so are the jobs that live. Nothing is counted on the path of a
job. See ``docs/decisions/0013-lists.md``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import Row, TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.jobs.search import plan_each_time
from shared.jobs.status import State

#: By then a transaction that began has ended: a statement and an idle one are ended by the server long before.
SETTLED_SECONDS = 60.0
#: Jobs that one pass of beat takes at most, but for those of the same instant.
BATCH = 5000

_TAKE = text("SELECT through FROM progress WHERE name = :name FOR UPDATE SKIP LOCKED")

#: A window in whole hours, and the days within it that have been added up. As text: ``infinity`` is no Python datetime.
_BOUNDS = text("""
    SELECT through::text AS through, since::text AS since, until::text AS until,
           date_trunc('day', since + interval '23 hours', 'UTC')::text AS first_day,
           least(date_trunc('day', until, 'UTC'), (SELECT through FROM progress WHERE name = 'days'))::text AS end_of_days
    FROM progress,
         date_trunc('hour', CAST(:since AS timestamptz), 'UTC') AS since, CAST(:until AS timestamptz) AS until
    WHERE name = 'totals'
""")

_COUNT = text("""
    WITH slice AS (
        SELECT least(now() - make_interval(secs => :settled), (
            SELECT finished_at FROM jobs WHERE finished_at > CAST(:through AS timestamptz)
            ORDER BY finished_at OFFSET :batch LIMIT 1)) AS upto
    ), counted AS (
        SELECT project_id, date_trunc('hour', finished_at, 'UTC') AS hour, kind, model, state,
               count(*) AS jobs, sum(cost_usd) AS cost_usd
        FROM jobs WHERE finished_at > CAST(:through AS timestamptz) AND finished_at <= (SELECT upto FROM slice)
        GROUP BY 1, 2, 3, 4, 5
    ), written AS (
        INSERT INTO job_totals AS t (project_id, hour, kind, model, state, jobs, cost_usd)
        SELECT * FROM counted
        ON CONFLICT (project_id, hour, kind, model, state)
        DO UPDATE SET jobs = t.jobs + excluded.jobs, cost_usd = t.cost_usd + excluded.cost_usd
    )
    UPDATE progress SET through = greatest(through, upto) FROM slice WHERE name = 'totals'
    RETURNING (SELECT coalesce(sum(jobs), 0)::bigint FROM counted) AS jobs
""")

#: Whole days, hours of which are counted. A day is added up anew each time.
_ADD_UP = text("""
    WITH slice AS (
        SELECT date_trunc('day', through, 'UTC') AS upto FROM progress WHERE name = 'totals'
    ), written AS (
        INSERT INTO job_daily_totals AS t (project_id, day, kind, model, state, jobs, cost_usd)
        SELECT project_id, date_trunc('day', hour, 'UTC'), kind, model, state, sum(jobs), sum(cost_usd)
        FROM job_totals WHERE hour >= CAST(:through AS timestamptz) AND hour < (SELECT upto FROM slice)
        GROUP BY 1, 2, 3, 4, 5
        ON CONFLICT (project_id, day, kind, model, state)
        DO UPDATE SET jobs = excluded.jobs, cost_usd = excluded.cost_usd
        RETURNING day
    )
    UPDATE progress SET through = upto FROM slice WHERE name = 'days' AND through < upto
    RETURNING (SELECT count(DISTINCT day) FROM written) AS days
""")

_COPY = text("""
    WITH slice AS (
        SELECT least(now() - make_interval(secs => :settled), (
            SELECT min(at) FROM projects CROSS JOIN LATERAL (
                SELECT created_at AS at FROM jobs
                WHERE project_id = projects.id AND created_at > CAST(:through AS timestamptz)
                ORDER BY created_at OFFSET :batch LIMIT 1) AS each)) AS upto
    ), copied AS (
        INSERT INTO job_prompts (job_id, project_id, created_at, prompt)
        SELECT j.id, j.project_id, j.created_at, left(j.input ->> 'prompt', :chars)
        FROM slice CROSS JOIN projects CROSS JOIN LATERAL (
            SELECT * FROM jobs WHERE project_id = projects.id AND created_at > CAST(:through AS timestamptz)
            AND created_at <= upto) AS j
        WHERE j.input ->> 'prompt' IS NOT NULL
        ORDER BY j.created_at
        ON CONFLICT (job_id) DO NOTHING
        RETURNING job_id
    )
    UPDATE progress SET through = greatest(through, upto) FROM slice WHERE name = 'prompts'
    RETURNING (SELECT count(*) FROM copied) AS jobs
""")

#: Jobs that were deleted since are missing in the new count, never in the old one.
_AUDIT = text("""
    WITH recounted AS (
        SELECT project_id, date_trunc('hour', finished_at, 'UTC') AS hour, kind, model, state,
               count(*) AS jobs, sum(cost_usd) AS cost_usd
        FROM jobs
        WHERE finished_at >= date_trunc('hour', now() - interval '1 hour', 'UTC') AND finished_at <= CAST(:through AS timestamptz)
        GROUP BY 1, 2, 3, 4, 5
    )
    INSERT INTO job_totals AS t (project_id, hour, kind, model, state, jobs, cost_usd)
    SELECT * FROM recounted
    ON CONFLICT (project_id, hour, kind, model, state)
    DO UPDATE SET jobs = excluded.jobs, cost_usd = excluded.cost_usd WHERE excluded.jobs > t.jobs
    RETURNING hour, kind, model, state
""")

#: What was corrected in a day that has been added up is added up again.
_ADD_UP_AGAIN = text("""
    UPDATE progress SET through = date_trunc('day', CAST(:hour AS timestamptz), 'UTC')
    WHERE name = 'days' AND through > CAST(:hour AS timestamptz)
""")

#: Or a job that ends in between would be counted twice, or not at all.
ONE_SNAPSHOT = text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")

_ENDED = """
    SELECT kind, model, state, sum(jobs)::bigint AS jobs, sum(cost_usd) AS cost_usd,
           coalesce(sum(cost_usd) FILTER (WHERE hour >= (SELECT date_trunc('day', now(), 'UTC'))), 0) AS cost_today
    FROM (
        SELECT day AS hour, kind, model, state, jobs, cost_usd FROM job_daily_totals
        WHERE project_id = :project_id AND day >= CAST(:first_day AS timestamptz) AND day < CAST(:end_of_days AS timestamptz)
        UNION ALL
        SELECT hour, kind, model, state, jobs, cost_usd FROM job_totals
        WHERE project_id = :project_id AND hour < CAST(:until AS timestamptz)
          AND hour >= greatest(CAST(:since AS timestamptz), CAST(:first_day AS timestamptz), CAST(:end_of_days AS timestamptz))
        UNION ALL
        {before_first_day}
        SELECT date_trunc('hour', finished_at, 'UTC') AS hour, kind, model, state, count(*), sum(cost_usd) FROM jobs
        WHERE finished_at > CAST(:through AS timestamptz) AND project_id = :project_id
          AND finished_at >= CAST(:since AS timestamptz)
          AND date_trunc('hour', finished_at, 'UTC') < CAST(:until AS timestamptz)
        GROUP BY 1, 2, 3, 4
    ) AS ended
    GROUP BY kind, model, state
"""

_ENDED_EVER = text(_ENDED.format(before_first_day=""))

#: Where the window holds no whole day that has been added up, ``first_day`` does not come before ``end_of_days``.
_ENDED_SINCE = text(
    _ENDED.format(
        before_first_day="""
        SELECT hour, kind, model, state, jobs, cost_usd FROM job_totals
        WHERE project_id = :project_id AND hour >= CAST(:since AS timestamptz)
          AND hour < least(CAST(:until AS timestamptz), CAST(:first_day AS timestamptz))
        UNION ALL
        """
    )
)

_COUNT_LIVE = """
    SELECT kind, model, state, queue, count(*) AS jobs, sum(cost_usd) AS cost_usd,
           CASE WHEN state = 'queued' AND (scheduled_at > now() OR published_at IS NULL) THEN waiting_reason END AS waiting_reason,
           extract(epoch FROM now() - min(scheduled_at) FILTER (WHERE state = 'queued' AND scheduled_at <= now())) AS oldest
    FROM jobs
"""

_LIVE = text(f"""
    {_COUNT_LIVE}
    WHERE project_id = :project_id AND (state = 'running' OR (state = 'queued' AND published_at IS NULL)
          OR (state = 'queued' AND published_at IS NOT NULL))
    GROUP BY 1, 2, 3, 4, 7
""")

_LIVE_OF_BATCH = text(f"""
    {_COUNT_LIVE}
    WHERE project_id = :project_id AND batch_id = :batch AND state IN ('queued', 'running')
    GROUP BY 1, 2, 3, 4, 7
""")

_ENDED_OF_BATCH = text("""
    SELECT kind, model, state, count(*) AS jobs, sum(cost_usd) AS cost_usd,
           coalesce(sum(cost_usd) FILTER (WHERE finished_at >= date_trunc('day', now(), 'UTC')), 0) AS cost_today
    FROM jobs
    WHERE project_id = :project_id AND batch_id = :batch AND state NOT IN ('queued', 'running')
      AND date_trunc('hour', finished_at, 'UTC') >= date_trunc('hour', CAST(:since AS timestamptz), 'UTC')
      AND date_trunc('hour', finished_at, 'UTC') < CAST(:until AS timestamptz)
    GROUP BY kind, model, state
""")


async def count(db: AsyncConnection) -> int:
    """Counts the next jobs that have ended; answers how many. Another beat that is at it is left alone."""
    return await _advance(db, "totals", _COUNT, {"batch": 4 * BATCH, "settled": SETTLED_SECONDS})


async def add_up(db: AsyncConnection) -> int:
    """Adds up the days that are over and counted since the last time; answers how many."""
    return await _advance(db, "days", _ADD_UP, {})


async def copy_prompts(db: AsyncConnection, *, chars: int) -> int:
    """Copies the next prompts for search, their first characters; answers how many."""
    given = {"batch": BATCH, "chars": chars, "settled": SETTLED_SECONDS}
    return await _advance(db, "prompts", _COPY, given)


async def _advance(db: AsyncConnection, name: str, step: TextClause, given: dict[str, Any]) -> int:
    taken = (await db.execute(_TAKE, {"name": name})).one_or_none()
    if taken is None:
        return 0
    done: int | None = (await db.execute(step, {"through": taken.through, **given})).scalar()
    return done or 0


async def audit(db: AsyncConnection) -> list[Row[Any]]:
    """Counts this hour and the one before again, and corrects what was too low: ``hour``, ``kind``, ``model``, ``state``.

    There is nothing to correct unless the database's clock was set back.
    """
    taken = (await db.execute(_TAKE, {"name": "totals"})).one_or_none()
    if taken is None:
        return []
    corrected = list(await db.execute(_AUDIT, {"through": taken.through}))
    if corrected:
        await db.execute(_ADD_UP_AGAIN, {"hour": min(row.hour for row in corrected)})
    return corrected


async def ended(
    db: AsyncConnection, project_id: UUID, since: datetime | None, until: datetime | None
) -> list[Row[Any]]:
    """Final jobs by ``kind``, ``model`` and ``state``, of the hours from ``since`` on that begin before ``until``.

    The rest of the transaction plans each statement anew.
    """
    window = {"since": since or "-infinity", "until": until or "infinity"}
    bounds = (await db.execute(_BOUNDS, window)).mappings().one()
    await plan_each_time(db)
    statement = _ENDED_EVER if since is None else _ENDED_SINCE
    return list(await db.execute(statement, {"project_id": project_id, **bounds}))


async def live(db: AsyncConnection, project_id: UUID) -> list[Row[Any]]:
    """Jobs that are not final by ``kind``, ``model``, ``state``, ``queue`` and ``waiting_reason``; ``oldest`` in seconds."""
    return list(await db.execute(_LIVE, {"project_id": project_id}))


async def of_batch(
    db: AsyncConnection, project_id: UUID, batch: UUID, since: datetime | None, until: datetime | None
) -> tuple[list[Row[Any]], list[Row[Any]]]:
    """What ``ended`` and ``live`` answer, of one batch: counted anew, as no totals know of it."""
    given = {"project_id": project_id, "batch": batch}
    window = {"since": since or "-infinity", "until": until or "infinity"}
    await plan_each_time(db)
    ended_rows = list(await db.execute(_ENDED_OF_BATCH, {**given, **window}))
    return ended_rows, list(await db.execute(_LIVE_OF_BATCH, given))


def summary(
    ended: Sequence[Row[Any]], live: Sequence[Row[Any]], waiting: Mapping[str, int]
) -> dict[str, Any]:
    """``JobsSummary`` of what ``ended`` and ``live`` answered, and how many queued jobs wait for each reason."""
    states: Counter[str] = Counter(dict.fromkeys(map(str, State), 0))
    models: dict[tuple[str, str], dict[str, Any]] = {}
    queues: dict[str, dict[str, Any]] = {}
    for row in (*ended, *live):
        states[row.state] += row.jobs
        key = (row.kind, row.model)
        of_model = models.setdefault(key, {"states": Counter(), "cost_usd": Decimal(0)})
        of_model["states"][row.state] += row.jobs
        of_model["cost_usd"] += row.cost_usd
    for row in live:
        of_queue = queues.setdefault(row.queue, {"queued": 0, "running": 0, "oldest_waiting_seconds": None})
        of_queue[row.state] += row.jobs
        if row.oldest is not None:
            of_queue["oldest_waiting_seconds"] = max(
                of_queue["oldest_waiting_seconds"] or 0.0, float(row.oldest)
            )
    under_way = sum((row.cost_usd for row in live), Decimal(0))
    return {
        "states": states,
        "models": [{"kind": kind, "model": model, **models[kind, model]} for kind, model in sorted(models)],
        "waiting": {str(reason): jobs for reason, jobs in waiting.items()},
        "queues": [{"queue": queue, **queues[queue]} for queue in sorted(queues)],
        "cost_usd": {
            "today": sum((row.cost_today for row in ended), under_way),
            "total": sum((row.cost_usd for row in ended), under_way),
        },
    }
