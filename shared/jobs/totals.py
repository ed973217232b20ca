"""Counts and costs of a project's jobs, exact and in bounded work.

Days and hours that beat has counted (``shared.jobs.counting``), what ended since, and the jobs that live. See
``docs/decisions/0013-lists.md``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.jobs.search import plan_each_time
from shared.jobs.status import State

#: A window in whole hours, and the days within it that have been added up. As text: ``infinity`` is no Python datetime.
#: Where the window holds no such day, ``first_day`` does not come before ``end_of_days``.
_BOUNDS = text("""
    SELECT totals.through::text AS through, since::text AS since, until::text AS until,
           date_trunc('day', since + interval '23 hours', 'UTC')::text AS first_day,
           least(date_trunc('day', until, 'UTC'), days.through)::text AS end_of_days
    FROM progress AS totals, progress AS days,
         date_trunc('hour', CAST(:since AS timestamptz), 'UTC') AS since, CAST(:until AS timestamptz) AS until
    WHERE totals.name = 'totals' AND days.name = 'days'
""")

#: Or a job that ends in between would be counted twice, or not at all.
ONE_SNAPSHOT = text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")

#: A day stands for its first hour here: today is no day that has been added up.
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


Counted = tuple[list[Row[Any]], list[Row[Any]]]


async def of_project(
    db: AsyncConnection, project_id: UUID, since: datetime | None, until: datetime | None
) -> Counted:
    """Final jobs and jobs that live, in a transaction of ``ONE_SNAPSHOT``; its statements are planned anew each time.

    Final ones by ``kind``, ``model`` and ``state``, of the hours from ``since`` on that begin before ``until``; those that
    live by ``queue`` and ``waiting_reason``, too; ``oldest`` in seconds.
    """
    bounds = (await db.execute(_BOUNDS, _window(since, until))).mappings().one()
    await plan_each_time(db, sort=False)
    ended = _ENDED_EVER if since is None else _ENDED_SINCE
    return (
        list(await db.execute(ended, {"project_id": project_id, **bounds})),
        list(await db.execute(_LIVE, {"project_id": project_id})),
    )


async def of_batch(
    db: AsyncConnection, project_id: UUID, batch: UUID, since: datetime | None, until: datetime | None
) -> Counted:
    """The same of one batch: counted anew, as no totals know of it."""
    given = {"project_id": project_id, "batch": batch}
    await plan_each_time(db, sort=False)
    return (
        list(await db.execute(_ENDED_OF_BATCH, {**given, **_window(since, until)})),
        list(await db.execute(_LIVE_OF_BATCH, given)),
    )


def _window(since: datetime | None, until: datetime | None) -> dict[str, datetime | str]:
    return {"since": since or "-infinity", "until": until or "infinity"}


def summary(
    ended: Sequence[Row[Any]], live: Sequence[Row[Any]], waiting: Mapping[str, int]
) -> dict[str, Any]:
    """``JobsSummary`` of what was counted, and how many queued jobs wait for each reason."""
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
