"""Answers a request that comes again from what was stored the first time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from uuid import UUID

from shared.coalesce import Coalescer
from shared.config import Settings
from shared.db import Database, is_unavailable
from shared.errors import Conflict, FieldError, ValidationFailed
from shared.idempotency import queries
from shared.idempotency.claim import HEADER, Answer, Claim, KeyTaken

_RETRY_SECONDS = 1


class IdempotencyService:
    """One a process; what several processes must agree on is decided by the database."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._patience = settings.database_statement_timeout + 1
        self._finds: Coalescer[tuple[UUID, str], tuple[bytes, Answer] | None] = Coalescer(
            self._find_batch, lanes=2, max_batch=500, is_shared_fault=is_unavailable
        )
        self._under_way: set[tuple[UUID, str]] = set()

    async def once(self, claim: Claim, work: Callable[[], Awaitable[Answer]]) -> tuple[Answer, bool]:
        """The stored answer, or that of the work, and whether it is a stored one.

        Args:
            work: checks the request and does what it asks for, keeping its answer (``queries.keep``) in the same
                transaction. What it raises leaves the key free.

        Raises:
            ValidationFailed: the key came with another request before.
            Conflict: the first request with the key is still under way.
        """
        with self._holding(claim):
            if stored := await self._stored(claim):
                return stored, True
            try:
                return await work(), False
            except KeyTaken:
                stored = await self._stored(claim)
                if stored is None:
                    raise _in_use() from None
                return stored, True

    @contextmanager
    def _holding(self, claim: Claim) -> Iterator[None]:
        if claim.name in self._under_way:
            raise _in_use()
        self._under_way.add(claim.name)
        try:
            yield
        finally:
            self._under_way.discard(claim.name)

    async def _stored(self, claim: Claim) -> Answer | None:
        async with asyncio.timeout(self._patience):
            found = await self._finds(claim.name)
        if found is None:
            return None
        fingerprint, answer = found
        if fingerprint != claim.fingerprint:
            message = "was sent with another request before; use a new key, or send the same request again"
            raise ValidationFailed(
                f"The {HEADER} {message}.",
                code="idempotency_key_reused",
                errors=[FieldError(HEADER, "reused", message)],
            )
        return answer

    async def _find_batch(self, names: Sequence[tuple[UUID, str]]) -> Sequence[tuple[bytes, Answer] | None]:
        async with self._database.reading() as db:
            found = await queries.find(db, names)
        return [found.get(name) for name in names]


def _in_use() -> Conflict:
    return Conflict(
        f"The first request with this {HEADER} is still under way; send it again in a moment.",
        code="idempotency_key_in_use",
        retry_after=_RETRY_SECONDS,
    )
