"""Counts and costs of a project's jobs, exact, in work that follows the jobs that live in all projects.

Days and hours that beat has counted (``shared.jobs.counting``), what ended since, and the jobs that live: one statement, so
one snapshot, or a job that ends in between would be counted twice or not at all. See ``docs/decisions/0013-lists.md``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import text

from shared.jobs.queries import Executor
from shared.jobs.status import FINAL, State

_TODAY = "(SELECT date_trunc('day', now(), 'UTC'))"
_OLDEST = "extract(epoch FROM now() - min(scheduled_at) FILTER (WHERE scheduled_at <= now()))"
_DUE = "state = 'queued' AND published_at IS NULL"
_PUBLISHED = "state = 'queued' AND published_at IS NOT NULL"
#: By a function, not an operator, so never by an index: what lives and what has just ended is found by its own. By the project's,
#: where statistics promise few of its jobs, all that it ever had would be read.
_OF_THIS_PROJECT = "uuid_eq(project_id, CAST(:project_id AS uuid))"


def _live(where: str, reason: str = "NULL", oldest: str = "CAST(NULL AS numeric)") -> str:
    """Counts the live jobs that ``where`` lets through, the condition of one partial index."""
    return f"""
    SELECT kind, model, state, queue, count(*) AS jobs, sum(cost_usd) AS cost_usd, sum(cost_usd) AS cost_today,
           {reason} AS waiting_reason, {oldest} AS oldest
    FROM jobs WHERE {where} AND {_OF_THIS_PROJECT}
    GROUP BY kind, model, state, queue, 8
    """


#: The window is one of whole hours; ``first_day`` and ``end_of_days`` are the days within it that have been added up. Where
#: it holds none, ``first_day`` does not come before ``end_of_days``. A day stands for its first hour: today is no day that has
#: been added up.
_OF_PROJECT = text(f"""
    WITH bounds AS MATERIALIZED (
        SELECT totals.through AS through, since, until, date_trunc('day', since + interval '23 hours', 'UTC') AS first_day,
               least(date_trunc('day', until, 'UTC'), days.through) AS end_of_days
        FROM progress AS totals, progress AS days,
             date_trunc('hour', CAST(:since AS timestamptz), 'UTC') AS since, CAST(:until AS timestamptz) AS until
        WHERE totals.name = 'totals' AND days.name = 'days'
    )
    SELECT kind, model, state, NULL AS queue, sum(jobs)::bigint AS jobs, sum(cost_usd) AS cost_usd,
           coalesce(sum(cost_usd) FILTER (WHERE hour >= {_TODAY}), 0) AS cost_today,
           NULL AS waiting_reason, CAST(NULL AS numeric) AS oldest
    FROM (
        SELECT day AS hour, kind, model, state, jobs, cost_usd FROM job_daily_totals
        WHERE project_id = CAST(:project_id AS uuid)
          AND day >= (SELECT first_day FROM bounds) AND day < (SELECT end_of_days FROM bounds)
        UNION ALL
        SELECT hour, kind, model, state, jobs, cost_usd FROM job_totals
        WHERE project_id = CAST(:project_id AS uuid)
          AND hour >= (SELECT since FROM bounds) AND hour < (SELECT least(until, first_day) FROM bounds)
        UNION ALL
        SELECT hour, kind, model, state, jobs, cost_usd FROM job_totals
        WHERE project_id = CAST(:project_id AS uuid)
          AND hour >= (SELECT greatest(since, first_day, end_of_days) FROM bounds) AND hour < (SELECT until FROM bounds)
        UNION ALL
        SELECT date_trunc('hour', finished_at, 'UTC'), kind, model, state, 1, cost_usd FROM jobs
        WHERE finished_at > (SELECT greatest(through, since - interval '1 microsecond') FROM bounds)
          AND date_trunc('hour', finished_at, 'UTC') < (SELECT until FROM bounds) AND {_OF_THIS_PROJECT}
    ) AS ended
    GROUP BY kind, model, state
    UNION ALL {_live("state = 'running'")}
    UNION ALL {_live(_DUE, "waiting_reason", _OLDEST)}
    UNION ALL {_live(_PUBLISHED, "CASE WHEN scheduled_at > now() THEN waiting_reason END", _OLDEST)}
""")

#: No totals know of batches.
_OF_BATCH = text(f"""
    SELECT kind, model, state, CASE WHEN finished_at IS NULL THEN queue END AS queue, count(*) AS jobs, sum(cost_usd) AS cost_usd,
           coalesce(sum(cost_usd) FILTER (WHERE finished_at IS NULL OR finished_at >= {_TODAY}), 0) AS cost_today,
           CASE WHEN {_DUE} OR (state = 'queued' AND scheduled_at > now()) THEN waiting_reason END AS waiting_reason,
           CASE WHEN state = 'queued' THEN {_OLDEST} END AS oldest
    FROM jobs
    WHERE batch_id = CAST(:batch AS uuid) AND {_OF_THIS_PROJECT} AND (finished_at IS NULL OR (
          date_trunc('hour', finished_at, 'UTC') >= date_trunc('hour', CAST(:since AS timestamptz), 'UTC')
          AND date_trunc('hour', finished_at, 'UTC') < CAST(:until AS timestamptz)))
    GROUP BY kind, model, state, 4, 8
""")


async def of_project(
    db: Executor, project_id: UUID, since: datetime | None, until: datetime | None
) -> Sequence[Any]:
    """How many there are, by ``kind``, ``model`` and ``state``, and what they cost; needs ``Database.counts``' planning.

    Final ones of the hours from ``since`` on that begin before ``until``; those that live by ``queue`` and
    ``waiting_reason``, too; ``oldest`` in seconds.
    """
    return list(await db.execute(_OF_PROJECT, {"project_id": project_id, **_window(since, until)}))


async def of_batch(
    db: Executor, project_id: UUID, batch: UUID, since: datetime | None, until: datetime | None
) -> Sequence[Any]:
    """The same of one batch: counted anew."""
    return list(
        await db.execute(_OF_BATCH, {"project_id": project_id, "batch": batch, **_window(since, until)})
    )


def _window(since: datetime | None, until: datetime | None) -> dict[str, datetime | str]:
    return {"since": since or "-infinity", "until": until or "infinity"}


def summary(counted: Iterable[Any], waiting: Mapping[str, int]) -> dict[str, Any]:
    """``JobsSummary`` of what was counted, and how many queued jobs wait for each reason."""
    states: Counter[str] = Counter(dict.fromkeys(map(str, State), 0))
    models: dict[tuple[str, str], dict[str, Any]] = {}
    queues: dict[str, dict[str, Any]] = {}
    today = total = Decimal(0)
    for row in counted:
        states[row.state] += row.jobs
        today, total = today + row.cost_today, total + row.cost_usd
        of_model = models.setdefault((row.kind, row.model), {"states": Counter(), "cost_usd": Decimal(0)})
        of_model["states"][row.state] += row.jobs
        of_model["cost_usd"] += row.cost_usd
        if row.state not in FINAL:
            _note_live(queues, row)
    return {
        "states": states,
        "models": [{"kind": kind, "model": model, **models[kind, model]} for kind, model in sorted(models)],
        "waiting": {str(reason): jobs for reason, jobs in waiting.items()},
        "queues": [{"queue": queue, **queues[queue]} for queue in sorted(queues)],
        "cost_usd": {"today": today, "total": total},
    }


def _note_live(queues: dict[str, dict[str, Any]], row: Any) -> None:
    of_queue = queues.setdefault(row.queue, {"queued": 0, "running": 0, "oldest_waiting_seconds": None})
    of_queue[row.state] += row.jobs
    if row.oldest is not None:
        before = of_queue["oldest_waiting_seconds"] or 0.0
        of_queue["oldest_waiting_seconds"] = max(before, float(row.oldest))
