"""Making, checking and revoking API keys."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from shared.access import keys, queries
from shared.coalesce import SingleFlight
from shared.db import Database
from shared.errors import Unauthenticated
from shared.models.access import SCOPES

#: How long a key that was found valid is believed without asking the database again; a revoked key
#: works for at most this long.
CACHE_SECONDS = 5.0
_CACHE_SIZE = 10_000
#: Longer than a statement on a healthy server can take to find one row.
LOOK_UP_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: a key, and the project that it speaks for."""

    project_id: UUID
    key_prefix: str
    scopes: frozenset[str]


async def create(
    database: Database,
    *,
    project: str,
    name: str,
    scopes: Sequence[str] = SCOPES,
    expires_at: datetime | None = None,
    key: str | None = None,
) -> str:
    """Makes a key (and its project) and answers it: the only time that it can be seen.

    Args:
        key: a key of the right form to register instead of a fresh one; registering it again is fine.

    Raises:
        ValueError: the given key has not the form, or its prefix belongs to another key.
    """
    value = key or keys.new_key()
    prefix = keys.prefix_of(value)
    if prefix is None:
        raise ValueError("a key has the form pln_<8 characters>_<43 characters>")
    async with database.transaction() as db:
        project_id = await queries.project(db, project)
        fresh = await queries.insert_key(
            db,
            project_id,
            name=name,
            prefix=prefix,
            secret_hash=keys.hash_of(value),
            scopes=scopes,
            expires_at=expires_at,
        )
        found = None if fresh else await queries.find_key(db, prefix)
    if found is not None and not hmac.compare_digest(found.secret_hash, keys.hash_of(value)):
        raise ValueError(f"the prefix {prefix} belongs to another key")
    return value


class Authenticator:
    """Checks keys, remembering valid ones for ``CACHE_SECONDS``. One a process.

    Requests with the same key that arrive while it is looked up share the answer.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._look_ups: SingleFlight[tuple[str, bytes], Caller] = SingleFlight(self._look_up)
        #: By the key's hash, so that no key lies in memory for long.
        self._valid: dict[bytes, tuple[float, Caller]] = {}

    def remembered(self, key: str) -> Caller | None:
        """The caller that a key stands for, if it was looked up a moment ago."""
        known = self._valid.get(keys.hash_of(key))
        return known[1] if known and known[0] > time.monotonic() else None

    async def authenticate(self, key: str) -> Caller:
        """The caller that a key stands for.

        Raises:
            Unauthenticated: unknown, revoked or expired; the message says which only to who has the secret.
            TimeoutError: the database hangs.
        """
        prefix = keys.prefix_of(key)
        if prefix is None:
            raise Unauthenticated(
                "This is not an API key: a key has the form pln_<8 characters>_<43 characters>. "
                "Make one with scripts/keys create.",
                code="invalid_api_key",
            )
        if known := self.remembered(key):
            return known
        digest = keys.hash_of(key)
        async with asyncio.timeout(LOOK_UP_SECONDS):
            caller = await self._look_ups((prefix, digest))
        if len(self._valid) >= _CACHE_SIZE:
            self._valid.clear()
        self._valid[digest] = (time.monotonic() + CACHE_SECONDS, caller)
        return caller

    async def _look_up(self, key: tuple[str, bytes]) -> Caller:
        prefix, digest = key
        async with self._database.transaction() as db:
            found = await queries.find_key(db, prefix)
        if found is None or not hmac.compare_digest(found.secret_hash, digest):
            raise Unauthenticated(
                "No such API key. scripts/keys list shows those that exist.", code="invalid_api_key"
            )
        if found.revoked_at is not None:
            raise Unauthenticated(f"The API key {prefix} was revoked.", code="revoked_api_key")
        if found.expired:
            raise Unauthenticated(f"The API key {prefix} has expired.", code="expired_api_key")
        return Caller(found.project_id, prefix, frozenset(found.scopes))
