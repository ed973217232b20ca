"""Bytes of pictures in PostgreSQL: written in the transaction that names them, read in slices.

Those of an upload are written slice by slice as they come, each in a transaction of its own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db import Database

#: One read, and one row of an upload; what a transfer holds in memory, whatever the picture's size.
SLICE_BYTES = 512 * 1024


async def write(db: AsyncConnection, artifact_id: UUID, project_id: UUID, data: bytes) -> None:
    """Stores the bytes, sent in binary: as text they would be twice the size."""
    cursor = await _cursor(db)
    await cursor.execute(
        "INSERT INTO artifact_bytes (artifact_id, project_id, data) VALUES (%s, %s, %b)",
        (artifact_id, project_id, data),
    )


async def read_all(db: AsyncConnection, artifact_id: UUID) -> bytes:
    """Raises: LookupError: they are no longer there."""
    cursor = await _cursor(db, binary=True)
    await cursor.execute("SELECT data FROM artifact_bytes WHERE artifact_id = %s", (artifact_id,))
    row = await cursor.fetchone()
    if row is None:
        raise LookupError(f"artifact {artifact_id} has no bytes")
    return bytes(row[0])


async def read_slices(database: Database, artifact_id: UUID, start: int, stop: int) -> AsyncIterator[bytes]:
    """Yields bytes ``start`` to ``stop`` in slices; no connection is held while the client reads one."""
    while start < stop:
        size = min(SLICE_BYTES, stop - start)
        async with database.transaction() as db:
            cursor = await _cursor(db, binary=True)
            await cursor.execute(
                "SELECT substring(data FROM %s FOR %s) FROM artifact_bytes WHERE artifact_id = %s",
                (start + 1, size, artifact_id),
            )
            row = await cursor.fetchone()
        if row is None or len(row[0]) != size:
            raise LookupError(f"artifact {artifact_id} ended at byte {start}")
        yield bytes(row[0])
        start += size


async def write_chunk(
    db: AsyncConnection, upload_id: UUID, project_id: UUID, position: int, data: bytes
) -> None:
    """Stores one slice of an upload; all but the last have ``SLICE_BYTES``."""
    cursor = await _cursor(db)
    await cursor.execute(
        "INSERT INTO upload_chunks (upload_id, position, project_id, data) VALUES (%s, %s, %s, %b)",
        (upload_id, position, project_id, data),
    )


async def read_upload(db: AsyncConnection, upload_id: UUID) -> bytes:
    """Raises: LookupError: it is no longer there."""
    cursor = await _cursor(db, binary=True)
    await cursor.execute(
        "SELECT string_agg(data, ''::bytea ORDER BY position) FROM upload_chunks WHERE upload_id = %s",
        (upload_id,),
    )
    row = await cursor.fetchone()
    if row is None or row[0] is None:
        raise LookupError(f"upload {upload_id} has no bytes")
    return bytes(row[0])


async def read_upload_slices(
    database: Database, upload_id: UUID, start: int, stop: int
) -> AsyncIterator[bytes]:
    """As ``read_slices`` does, of an upload."""
    while start < stop:
        position, offset = divmod(start, SLICE_BYTES)
        size = min(SLICE_BYTES - offset, stop - start)
        async with database.transaction() as db:
            cursor = await _cursor(db, binary=True)
            await cursor.execute(
                "SELECT substring(data FROM %s FOR %s) FROM upload_chunks WHERE upload_id = %s AND position = %s",
                (offset + 1, size, upload_id, position),
            )
            row = await cursor.fetchone()
        if row is None or len(row[0]) != size:
            raise LookupError(f"upload {upload_id} ended at byte {start}")
        yield bytes(row[0])
        start += size


async def _cursor(db: AsyncConnection, *, binary: bool = False) -> Any:
    """psycopg's own cursor of this connection: SQLAlchemy offers no binary results."""
    raw = await db.get_raw_connection()
    connection = raw.driver_connection
    assert connection is not None
    return connection.cursor(binary=binary)
