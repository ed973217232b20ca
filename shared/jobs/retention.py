"""The SQL by which jobs go: at a client's wish, or when they have been kept for their time.

Attempts, events, artifacts and their bytes go with their job, by the foreign keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

#: As the index ``ix_jobs_kept_until`` has it.
_KEPT_UNTIL = "((finished_at AT TIME ZONE 'UTC'::text) + make_interval(secs => keep_seconds))"
_OVER = f"""
    finished_at IS NOT NULL AND keep_seconds IS NOT NULL AND {_KEPT_UNTIL} <= now() AT TIME ZONE 'UTC'
"""

#: A webhook about it is still to be made: beat was away for as long as the job was to be kept.
_TOLD = """
    NOT EXISTS (
        SELECT FROM webhook_endpoints w, webhook_progress p, job_events e
        WHERE w.project_id = jobs.project_id AND w.disabled_at IS NULL
          AND e.job_id = jobs.id AND e.id > greatest(p.through_event, w.since_event)
    )
"""

_FORGET_DELIVERIES = text("DELETE FROM webhook_deliveries WHERE job_id = :id AND project_id = :project_id")

_DELETE = text("""
    DELETE FROM jobs WHERE id = :id AND project_id = :project_id
      AND state IN ('succeeded', 'failed', 'cancelled', 'expired')
    RETURNING id
""")

_DUE = text(f"SELECT id FROM jobs WHERE {_OVER} AND {_TOLD} ORDER BY {_KEPT_UNTIL} LIMIT :limit")

_PRUNE = text(f"""
    WITH j AS (
        SELECT id FROM jobs WHERE id = ANY(CAST(:ids AS uuid[])) AND {_OVER}
        ORDER BY id FOR UPDATE SKIP LOCKED
    )
    DELETE FROM jobs USING j WHERE jobs.id = j.id
""")


async def delete(db: AsyncConnection, project_id: UUID, job_id: UUID) -> bool:
    """Deletes a final job, and what was or is to be sent about it. False: there is none, or it is not final."""
    parameters = {"id": job_id, "project_id": project_id}
    found = (await db.execute(_DELETE, parameters)).first() is not None
    if found:
        await db.execute(_FORGET_DELIVERIES, parameters)
    return found


async def due(db: AsyncConnection, *, limit: int) -> list[UUID]:
    """Jobs whose time is over, those first for whom it has been so the longest."""
    return [row.id for row in await db.execute(_DUE, {"limit": limit})]


async def prune(db: AsyncConnection, ids: Sequence[UUID]) -> int:
    """Deletes those of the jobs whose time is over; answers how many."""
    return int((await db.execute(_PRUNE, {"ids": list(ids)})).rowcount)
