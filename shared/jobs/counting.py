"""What beat counts for summaries, and copies for search, each in slices of bounded work.

Jobs that have ended are counted once, into one row for each project, hour, kind, model and state; the hours of a day that
is over are added up into one row for the day, so that years are a few thousand rows. ``progress`` says how far each has
come. Nothing is counted on the path of a job. See ``docs/decisions/0013-lists.md``.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row, TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

#: By then a transaction that began has ended: a statement and an idle one are ended by the server long before.
SETTLED_SECONDS = 60.0
#: By then it has at least been written down among those that are open, which is its first step.
SEEN_SECONDS = 3.0
#: Jobs that one pass of beat takes at most, but for those of the same instant.
BATCH = 5000
#: Days that are added up in one transaction at most: some ten thousand hours of busy projects.
DAYS = 7

#: Beside how far it has come, how far it can go: before all transactions that are open, as their rows will have the times
#: when they began. Read in a statement before the one that counts: who has ended in between is seen by that. Where others
#: are connected in whom this role may not look, or who do not tell (``track_activities``), it waits until they have surely ended.
_TAKE = text("""
    SELECT through, (
        SELECT greatest(
            now() - make_interval(secs => :settled),
            CASE WHEN count(*) = count(state) FILTER (WHERE state <> 'disabled') THEN
                least(now() - make_interval(secs => :seen), min(xact_start) - interval '1 microsecond') END)
        FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid() AND usesysid IS NOT NULL
          AND (backend_type IS NULL OR backend_type = 'client backend')) AS settled
    FROM progress WHERE name = :name FOR UPDATE SKIP LOCKED
""")

_COUNT = text("""
    WITH slice AS (
        SELECT least(CAST(:settled AS timestamptz), (
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

#: How far days have been added up, and how far they could be.
_TAKE_DAYS = text("""
    SELECT days.through, date_trunc('day', totals.through, 'UTC') AS over
    FROM progress AS days, progress AS totals
    WHERE days.name = 'days' AND totals.name = 'totals'
    FOR UPDATE OF days SKIP LOCKED
""")

#: The next days that have hours, all of them counted. A day is added up anew each time.
_ADD_UP = text("""
    WITH first AS (
        SELECT date_trunc('day', min(hour), 'UTC') AS day FROM projects CROSS JOIN LATERAL (
            SELECT hour FROM job_totals
            WHERE project_id = projects.id AND hour >= CAST(:through AS timestamptz) ORDER BY hour LIMIT 1) AS each
    ), slice AS (
        SELECT day, least(day + make_interval(hours => 24 * :days), CAST(:over AS timestamptz)) AS upto FROM first
    ), written AS (
        INSERT INTO job_daily_totals AS t (project_id, day, kind, model, state, jobs, cost_usd)
        SELECT projects.id, date_trunc('day', hour, 'UTC'), kind, model, state, sum(jobs), sum(cost_usd)
        FROM slice CROSS JOIN projects CROSS JOIN LATERAL (
            SELECT * FROM job_totals WHERE project_id = projects.id AND hour >= slice.day AND hour < slice.upto) AS each
        GROUP BY 1, 2, 3, 4, 5
        ON CONFLICT (project_id, day, kind, model, state)
        DO UPDATE SET jobs = excluded.jobs, cost_usd = excluded.cost_usd
        RETURNING day
    )
    UPDATE progress SET through = upto FROM slice WHERE name = 'days'
    RETURNING (SELECT count(DISTINCT day) FROM written) AS days
""")

_COPY = text("""
    WITH slice AS (
        SELECT least(CAST(:settled AS timestamptz), (
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

#: A day in which an hour was corrected is added up again. Without a condition: another beat's step is waited for.
_ADD_UP_AGAIN = text("""
    UPDATE progress SET through = least(through, date_trunc('day', CAST(:hour AS timestamptz), 'UTC')) WHERE name = 'days'
""")


async def count(db: AsyncConnection) -> int:
    """Counts the next jobs that have ended; answers how many. Another beat that is at it is left alone."""
    return await _advance(db, "totals", _COUNT, {"batch": 4 * BATCH}, seen=SEEN_SECONDS)


async def copy_prompts(db: AsyncConnection, *, chars: int) -> int:
    """Copies the next prompts for search, their first characters; answers how many.

    A copy refers to its job, and locks it until the commit: after a minute hardly anybody else wants it.
    """
    return await _advance(db, "prompts", _COPY, {"batch": BATCH, "chars": chars}, seen=SETTLED_SECONDS)


async def add_up(db: AsyncConnection) -> int:
    """Adds up the next days that are over and counted, ``DAYS`` at most; answers how many. There is work once a day."""
    taken = (await db.execute(_TAKE_DAYS)).one_or_none()
    if taken is None or taken.through >= taken.over:
        return 0
    given = {"through": taken.through, "over": taken.over, "days": DAYS}
    days: int = (await db.execute(_ADD_UP, given)).scalar_one()
    return days


async def audit(db: AsyncConnection) -> list[Row[Any]]:
    """Counts this hour and the one before again, and corrects what was too low: ``hour``, ``kind``, ``model``, ``state``.

    There is nothing to correct unless the database's clock was set back.
    """
    taken = await _take(db, "totals", SEEN_SECONDS)
    if taken is None:
        return []
    corrected = list(await db.execute(_AUDIT, {"through": taken.through}))
    if corrected:
        await db.execute(_ADD_UP_AGAIN, {"hour": min(row.hour for row in corrected)})
    return corrected


async def _advance(
    db: AsyncConnection, name: str, step: TextClause, given: dict[str, Any], *, seen: float
) -> int:
    taken = await _take(db, name, seen)
    if taken is None:
        return 0
    bounds = {"through": taken.through, "settled": taken.settled}
    jobs: int = (await db.execute(step, {**bounds, **given})).scalar_one()
    return jobs


async def _take(db: AsyncConnection, name: str, seen: float) -> Row[Any] | None:
    """``through`` and ``settled``, ``seen`` seconds ago at the latest; None where another beat is at it."""
    given = {"name": name, "settled": SETTLED_SECONDS, "seen": seen}
    return (await db.execute(_TAKE, given)).one_or_none()
