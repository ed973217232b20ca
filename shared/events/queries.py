"""The SQL of reading events; they are written with the transitions themselves, in ``shared/jobs/queries.py``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.events.horizon import Mark

#: An event, and what is cheap to say of its job as it is now.
VIEW = """
    e.id, e.project_id, e.job_id, e.version, e.type, e.data, e.created_at,
    j.kind, j.model, j.priority, j.state, j.version AS job_version, j.attempt, j.cost_usd, j.error
"""

_OF_JOBS = text(f"""
    SELECT {VIEW} FROM unnest(CAST(:ids AS uuid[]), CAST(:afters AS bigint[])) AS wanted(job_id, after)
    JOIN job_events e ON e.job_id = wanted.job_id AND e.id > wanted.after
    JOIN jobs j ON j.id = e.job_id
    ORDER BY e.id
""")

_OF_PROJECTS = text(f"""
    SELECT {VIEW} FROM job_events e LEFT JOIN jobs j ON j.id = e.job_id
    WHERE e.project_id = ANY(CAST(:projects AS uuid[])) AND e.id > :after AND e.id <= :until
    ORDER BY e.id LIMIT :limit
""")

_NEWEST = text("SELECT CASE WHEN is_called THEN last_value ELSE 0 END AS id FROM job_events_id_seq")

# The number first: whoever has drawn one up to it had a transaction id by then, and so a smaller one than this.
_MARK = text("""
    WITH newest AS MATERIALIZED (
        SELECT CASE WHEN is_called THEN last_value ELSE 0 END AS id FROM job_events_id_seq
    )
    SELECT id, CAST(CAST(pg_current_xact_id() AS text) AS bigint) AS xid FROM newest
""")

_OLDEST = text("SELECT CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint)")


async def of_jobs(db: AsyncConnection, wanted: Sequence[tuple[UUID, int]]) -> list[Row[Any]]:
    """For each job, its events with a larger id, in order."""
    parameters = {"ids": [job_id for job_id, _ in wanted], "afters": [after for _, after in wanted]}
    return list(await db.execute(_OF_JOBS, parameters))


async def of_projects(
    db: AsyncConnection, projects: Sequence[UUID], *, after: int, until: int, limit: int
) -> list[Row[Any]]:
    """The first events of these projects with ids in ``(after, until]``, in order."""
    parameters = {"projects": list(projects), "after": after, "until": until, "limit": limit}
    return list(await db.execute(_OF_PROJECTS, parameters))


async def newest(db: AsyncConnection) -> int:
    """The largest id that was ever given to an event."""
    found: int = (await db.execute(_NEWEST)).scalar_one()
    return found


async def mark(db: AsyncConnection) -> Mark:
    """Where the sequence of events is now; see ``horizon``. Ends a transaction of its own: not to be used within one."""
    row = (await db.execute(_MARK)).one()
    return Mark(row.id, row.xid)


async def oldest(db: AsyncConnection) -> int:
    """The oldest transaction under way, in the whole cluster; where there is none, the next one."""
    found: int = (await db.execute(_OLDEST)).scalar_one()
    return found
