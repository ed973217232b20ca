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

_DELETE = text("""
    DELETE FROM jobs WHERE id = :id AND project_id = :project_id
      AND state IN ('succeeded', 'failed', 'cancelled', 'expired')
    RETURNING id
""")

_DUE = text(f"SELECT id FROM jobs WHERE {_OVER} ORDER BY {_KEPT_UNTIL} LIMIT :limit")

_PRUNE = text(f"""
    WITH j AS (
        SELECT id FROM jobs WHERE id = ANY(CAST(:ids AS uuid[])) AND {_OVER}
        ORDER BY id FOR UPDATE SKIP LOCKED
    )
    DELETE FROM jobs USING j WHERE jobs.id = j.id
""")


async def delete(db: AsyncConnection, project_id: UUID, job_id: UUID) -> bool:
    """Deletes a final job. False: there is none, or it is not final."""
    return (await db.execute(_DELETE, {"id": job_id, "project_id": project_id})).first() is not None


async def due(db: AsyncConnection, *, limit: int) -> list[UUID]:
    """Jobs whose time is over, those first for whom it has been so the longest."""
    return [row.id for row in await db.execute(_DUE, {"limit": limit})]


async def prune(db: AsyncConnection, ids: Sequence[UUID]) -> int:
    """Deletes those of the jobs whose time is over; answers how many."""
    return int((await db.execute(_PRUNE, {"ids": list(ids)})).rowcount)
