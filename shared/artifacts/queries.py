"""The SQL of artifacts."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from shared import storage

_INSERT = text("""
    INSERT INTO artifacts (id, project_id, job_id, role, position, media_type, byte_size, sha256, width, height)
    VALUES (:id, :project_id, :job_id, :role, :position, :media_type, :byte_size, :sha256, :width, :height)
""")
_FIND = text("SELECT * FROM artifacts WHERE id = :id AND project_id = :project_id")
# The lock keeps the upload until the reference can be seen.
_REFER = text("""
    INSERT INTO artifacts (id, project_id, job_id, role, position, media_type, byte_size, sha256, width, height, upload_id)
    SELECT n.id, u.project_id, n.job_id, 'input', n.position, u.media_type, u.byte_size, u.sha256, u.width, u.height, u.id
    FROM unnest(
        CAST(:ids AS uuid[]), CAST(:jobs AS uuid[]), CAST(:positions AS smallint[]), CAST(:uploads AS uuid[])
    ) AS n (id, job_id, position, upload_id)
    JOIN uploads u ON u.id = n.upload_id AND u.project_id = :project_id AND u.completed_at IS NOT NULL
""")
_INPUTS = text("""
    SELECT id, position, media_type, byte_size, width, height, upload_id FROM artifacts WHERE job_id = :job_id AND role = 'input' ORDER BY position
""")
_DELETE_BYTES = text("""
    WITH b AS (
        SELECT b.artifact_id FROM artifacts a JOIN artifact_bytes b ON b.artifact_id = a.id
        WHERE a.job_id = ANY(CAST(:jobs AS uuid[])) ORDER BY b.artifact_id LIMIT :limit FOR UPDATE OF b SKIP LOCKED
    )
    DELETE FROM artifact_bytes USING b WHERE artifact_bytes.artifact_id = b.artifact_id
""")


async def insert(
    db: AsyncConnection,
    *,
    artifact_id: UUID,
    project_id: UUID,
    job_id: UUID,
    role: str,
    position: int,
    media_type: str,
    data: bytes,
    digest: bytes,
    width: int | None,
    height: int | None,
) -> None:
    """Writes one artifact and its bytes; they come and go with the transaction.

    Raises:
        sqlalchemy.exc.IntegrityError: the job has one in this place already.
    """
    await db.execute(
        _INSERT,
        {
            "id": artifact_id,
            "project_id": project_id,
            "job_id": job_id,
            "role": role,
            "position": position,
            "media_type": media_type,
            "byte_size": len(data),
            "sha256": digest,
            "width": width,
            "height": height,
        },
    )
    await storage.write(db, artifact_id, project_id, data)


async def refer(
    db: AsyncConnection, project_id: UUID, references: Sequence[tuple[UUID, UUID, int, UUID]]
) -> None:
    """Writes input artifacts whose bytes are those of uploads: id of the artifact, job, position and upload of each.

    The transaction must hold all of the uploads (``uploads.queries.hold``).
    """
    ids, jobs, positions, uploads = map(list, zip(*references, strict=True))
    parameters = {
        "ids": ids,
        "jobs": jobs,
        "positions": positions,
        "uploads": uploads,
        "project_id": project_id,
    }
    written = (await db.execute(_REFER, parameters)).rowcount
    if written != len(references):
        raise RuntimeError(f"{len(references) - written} uploads were not held, and are gone")


async def find(db: AsyncConnection, project_id: UUID, artifact_id: UUID) -> Row[Any] | None:
    return (await db.execute(_FIND, {"id": artifact_id, "project_id": project_id})).one_or_none()


async def delete_bytes(db: AsyncConnection, jobs: Sequence[UUID], *, limit: int) -> int:
    """Deletes the bytes of so many pictures of these jobs; answers of how many. What a picture was stays known."""
    return int((await db.execute(_DELETE_BYTES, {"jobs": list(jobs), "limit": limit})).rowcount)


async def inputs(db: AsyncConnection, job_id: UUID) -> Sequence[Row[Any]]:
    return (await db.execute(_INPUTS, {"job_id": job_id})).all()


def digest_of(data: bytes) -> bytes:
    return sha256(data).digest()
