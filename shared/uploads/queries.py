"""The SQL of uploads. Only a complete one is ever found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

_BEGIN = text("""
    INSERT INTO uploads (id, project_id, expires_at)
    VALUES (:id, :project_id, now() + make_interval(secs => :patience))
""")
_KEEP_LONGER = text("""
    UPDATE uploads SET expires_at = greatest(expires_at, now() + make_interval(secs => :keep))
    WHERE project_id = :project_id AND sha256 = :sha256 AND completed_at IS NOT NULL
    RETURNING *
""")
_COMPLETE = text("""
    UPDATE uploads SET completed_at = now(), expires_at = now() + make_interval(secs => :keep), filename = :filename,
        media_type = :media_type, byte_size = :byte_size, sha256 = :sha256, width = :width, height = :height
    WHERE id = :id AND completed_at IS NULL
    RETURNING *
""")
_DISCARD = text("DELETE FROM uploads WHERE id = :id AND completed_at IS NULL")
_FIND = text("""
    SELECT * FROM uploads
    WHERE id = ANY(CAST(:ids AS uuid[])) AND project_id = :project_id AND completed_at IS NOT NULL
""")
_LOCK = text(
    "SELECT id FROM uploads WHERE id = :id AND project_id = :project_id AND completed_at IS NOT NULL FOR UPDATE"
)
# Rows are locked in the order of ids: of two that want some of the same, one waits for the other and never both.
_HOLD = text("""
    SELECT id FROM uploads
    WHERE id = ANY(CAST(:ids AS uuid[])) AND project_id = :project_id AND completed_at IS NOT NULL
    ORDER BY id FOR KEY SHARE
""")
_USER = text("SELECT job_id FROM artifacts WHERE upload_id = :id LIMIT 1")
_DELETE = text("DELETE FROM uploads WHERE id = :id")
# Whoever is about to refer to one holds a lock on its row, which is passed over.
_PRUNE = text("""
    WITH gone AS (
        SELECT id FROM uploads
        WHERE expires_at <= now() AND NOT EXISTS (SELECT FROM artifacts WHERE artifacts.upload_id = uploads.id)
        ORDER BY expires_at LIMIT :limit FOR UPDATE SKIP LOCKED
    )
    DELETE FROM uploads USING gone WHERE uploads.id = gone.id
""")


async def begin(db: AsyncConnection, upload_id: UUID, project_id: UUID, *, patience: float) -> None:
    """Notes that an upload is being received; if it is not complete in so many seconds it may be pruned."""
    await db.execute(_BEGIN, {"id": upload_id, "project_id": project_id, "patience": patience})


async def keep_longer(
    db: AsyncConnection, project_id: UUID, sha256: bytes, *, keep: float
) -> Row[Any] | None:
    """The project's upload with this content, which is kept for so many seconds from now at least."""
    parameters = {"project_id": project_id, "sha256": sha256, "keep": keep}
    return (await db.execute(_KEEP_LONGER, parameters)).one_or_none()


async def complete(
    db: AsyncConnection, upload_id: UUID, facts: dict[str, Any], *, keep: float
) -> Row[Any] | None:
    """Makes an upload one that can be used. None: it took too long and was pruned.

    Raises:
        sqlalchemy.exc.IntegrityError: another one with the same content was completed at the same moment.
    """
    return (await db.execute(_COMPLETE, {**facts, "id": upload_id, "keep": keep})).one_or_none()


async def discard(db: AsyncConnection, upload_id: UUID) -> None:
    """Deletes one that was not completed."""
    await db.execute(_DISCARD, {"id": upload_id})


async def find(db: AsyncConnection, project_id: UUID, ids: Sequence[UUID]) -> dict[UUID, Row[Any]]:
    return {row.id: row for row in await db.execute(_FIND, {"ids": list(ids), "project_id": project_id})}


async def lock(db: AsyncConnection, project_id: UUID, upload_id: UUID) -> bool:
    """Keeps jobs from referring to it until the transaction ends. False: there is none."""
    found = await db.execute(_LOCK, {"id": upload_id, "project_id": project_id})
    return found.first() is not None


async def hold(db: AsyncConnection, project_id: UUID, ids: Sequence[UUID]) -> set[UUID]:
    """Keeps these from going until the transaction ends; answers which of them there are."""
    return {row.id for row in await db.execute(_HOLD, {"ids": list(ids), "project_id": project_id})}


async def user_of(db: AsyncConnection, upload_id: UUID) -> UUID | None:
    """A job that refers to it."""
    found: UUID | None = (await db.execute(_USER, {"id": upload_id})).scalar_one_or_none()
    return found


async def delete(db: AsyncConnection, upload_id: UUID) -> None:
    await db.execute(_DELETE, {"id": upload_id})


async def prune(db: AsyncConnection, *, limit: int) -> int:
    """Deletes uploads whose time is over and to which no job refers; answers how many."""
    return int((await db.execute(_PRUNE, {"limit": limit})).rowcount)
