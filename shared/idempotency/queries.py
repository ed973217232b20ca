"""The SQL of idempotency keys."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.idempotency.claim import Answer, Claim, KeyTaken

_FIND = text("""
    SELECT project_id, key, fingerprint, status, headers, body FROM idempotency_keys
    JOIN unnest(CAST(:projects AS uuid[]), CAST(:keys AS text[])) AS r(project_id, key) USING (project_id, key)
""")

# The lock is tried and never waited for: a batch must not stand still for one key that another process works on.
# It ends with its transaction, after the row can be seen, so who gets the lock meets the row.
_KEEP = text("""
    WITH row AS (
        SELECT * FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(
            project_id uuid, key text, fingerprint text, status smallint, headers jsonb, body text)
    )
    INSERT INTO idempotency_keys (project_id, key, fingerprint, status, headers, body)
    SELECT project_id, key, decode(fingerprint, 'hex'), status, headers, body FROM row
    WHERE pg_try_advisory_xact_lock(hashtextextended(project_id || ' ' || key, 0))
    ORDER BY project_id, key
    ON CONFLICT DO NOTHING
    RETURNING key
""")

_PRUNE = text("""
    WITH old AS (
        SELECT project_id, key FROM idempotency_keys WHERE created_at < now() - make_interval(secs => :after)
        ORDER BY created_at LIMIT :limit FOR UPDATE SKIP LOCKED
    )
    DELETE FROM idempotency_keys k USING old WHERE k.project_id = old.project_id AND k.key = old.key
""")


async def find(
    db: AsyncConnection, names: Sequence[tuple[UUID, str]]
) -> dict[tuple[UUID, str], tuple[bytes, Answer]]:
    """Fingerprint and answer of each key (project, key) that has one."""
    projects, keys = [project for project, _ in names], [key for _, key in names]
    rows = await db.execute(_FIND, {"projects": projects, "keys": keys})
    return {
        (row.project_id, row.key): (
            bytes(row.fingerprint),
            Answer(row.status, row.headers, row.body.encode()),
        )
        for row in rows
    }


async def keep(db: AsyncConnection, answers: Sequence[tuple[Claim, Answer]]) -> None:
    """Stores answers in the transaction that they tell of.

    Raises:
        KeyTaken: at least one key has an answer already, or is being given one.
    """
    rows = [
        {
            "project_id": str(claim.project_id),
            "key": claim.key,
            "fingerprint": claim.fingerprint.hex(),
            "status": answer.status,
            "headers": answer.headers,
            "body": answer.body.decode(),
        }
        for claim, answer in answers
    ]
    kept = (await db.execute(_KEEP, {"rows": orjson.dumps(rows).decode()})).all()
    if len(kept) < len(rows):
        raise KeyTaken


async def prune(db: AsyncConnection, *, after: float, limit: int) -> int:
    """Forgets keys older than so many seconds, the oldest first; answers how many."""
    return int((await db.execute(_PRUNE, {"after": after, "limit": limit})).rowcount)
