"""The SQL of projects and API keys."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection
from uuid_utils.compat import uuid7

_PROJECT = text("""
    WITH made AS (
        INSERT INTO projects (id, name) VALUES (:id, :name) ON CONFLICT (name) DO NOTHING RETURNING id
    )
    SELECT id FROM made UNION ALL SELECT id FROM projects WHERE name = :name LIMIT 1
""")
_INSERT = text("""
    INSERT INTO api_keys (id, project_id, name, prefix, secret_hash, scopes, expires_at)
    VALUES (:id, :project_id, :name, :prefix, :secret_hash, CAST(:scopes AS text[]), :expires_at)
    ON CONFLICT (prefix) DO NOTHING RETURNING id
""")
_FIND = text("""
    SELECT id, project_id, name, prefix, secret_hash, scopes, expires_at, revoked_at,
           expires_at IS NOT NULL AND expires_at <= now() AS expired
    FROM api_keys WHERE prefix = :prefix
""")
_LIST = text("""
    SELECT p.name AS project, k.name, k.prefix, k.scopes, k.created_at, k.expires_at, k.revoked_at,
           k.expires_at IS NOT NULL AND k.expires_at <= now() AS expired
    FROM api_keys k JOIN projects p ON p.id = k.project_id
    WHERE CAST(:project AS text) IS NULL OR p.name = :project
    ORDER BY p.name, k.created_at, k.prefix
""")
_REVOKE = text(
    "UPDATE api_keys SET revoked_at = coalesce(revoked_at, now()) WHERE prefix = :prefix RETURNING id"
)


async def project(db: AsyncConnection, name: str) -> UUID:
    """The project's id; it is made where it does not exist."""
    found: UUID = (await db.execute(_PROJECT, {"id": uuid7(), "name": name})).scalar_one()
    return found


async def insert_key(
    db: AsyncConnection,
    project_id: UUID,
    *,
    name: str,
    prefix: str,
    secret_hash: bytes,
    scopes: Sequence[str],
    expires_at: datetime | None,
) -> bool:
    """False where the prefix is taken."""
    parameters = {
        "id": uuid7(),
        "project_id": project_id,
        "name": name,
        "prefix": prefix,
        "secret_hash": secret_hash,
        "scopes": list(scopes),
        "expires_at": expires_at,
    }
    return (await db.execute(_INSERT, parameters)).one_or_none() is not None


async def find_key(db: AsyncConnection, prefix: str) -> Row[Any] | None:
    return (await db.execute(_FIND, {"prefix": prefix})).one_or_none()


async def list_keys(db: AsyncConnection, project_name: str | None) -> Sequence[Row[Any]]:
    return (await db.execute(_LIST, {"project": project_name})).all()


async def revoke_key(db: AsyncConnection, prefix: str) -> bool:
    """False where there is no such key."""
    return (await db.execute(_REVOKE, {"prefix": prefix})).one_or_none() is not None
