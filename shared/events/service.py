"""Reading events: of a job, of projects, and up to where. Concurrent readers share statements."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Row

from shared.coalesce import Coalescer
from shared.config import Settings
from shared.db import Database, is_unavailable, within
from shared.errors import BadRequest, FieldError, Unavailable
from shared.events import queries
from shared.events.horizon import Mark

#: How long the start of a stream waits for the transactions that were under way then.
_SETTLE_SECONDS = 5.0
_SETTLE_PAUSES = (0.002, 0.1)


class EventService:
    """One a process."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._patience = settings.database_statement_timeout + 1
        self._of_job: Coalescer[tuple[UUID, int], list[Row[Any]]] = Coalescer(
            self._of_jobs, lanes=2, max_batch=500, is_shared_fault=is_unavailable
        )
        self._now: Coalescer[None, int] = Coalescer(
            self._settled_now, lanes=2, is_shared_fault=lambda _: True
        )

    async def of_job(self, job_id: UUID, after: int) -> list[Row[Any]]:
        """A job's events with a larger id, in order: a job's own can be read as they come."""
        async with asyncio.timeout(self._patience):
            return await self._of_job((job_id, after))

    async def of_projects(
        self, projects: Sequence[UUID], *, after: int, until: int, limit: int
    ) -> list[Row[Any]]:
        """The first events of projects with ids in ``(after, until]``; ``until`` must be settled."""

        async def read() -> list[Row[Any]]:
            async with self._database.reading() as db:
                return await queries.of_projects(db, projects, after=after, until=until, limit=limit)

        return await within(self._patience, read())

    async def now(self) -> int:
        """An id with which everything that was committed before the call is settled, and all that is to come is not.

        Raises:
            Unavailable: a transaction that was under way does not end.
        """
        async with asyncio.timeout(self._patience):
            return await self._now(None)

    async def look(self) -> tuple[Mark, int]:
        """A mark, and the oldest transaction that was under way after it."""

        async def read() -> tuple[Mark, int]:
            async with self._database.reading() as db:
                return await queries.mark(db), await queries.oldest(db)

        return await within(self._patience, read())

    async def check(self, after: int) -> None:
        """Raises: BadRequest: no event has had this id yet, so it comes from another database."""

        async def read() -> int:
            async with self._database.reading() as db:
                return await queries.newest(db)

        if after > await within(self._patience, read()):
            raise invalid_last_event_id("no event has this id yet")

    async def _of_jobs(self, wanted: Sequence[tuple[UUID, int]]) -> Sequence[list[Row[Any]]]:
        # Of several who want one job, each takes what it has not had.
        first: dict[UUID, int] = {}
        for job_id, after in wanted:
            first[job_id] = min(after, first.get(job_id, after))
        found: defaultdict[UUID, list[Row[Any]]] = defaultdict(list)
        async with self._database.reading() as db:
            for row in await queries.of_jobs(db, list(first.items())):
                found[row.job_id].append(row)
        return [[row for row in found[job_id] if row.id > after] for job_id, after in wanted]

    async def _settled_now(self, askers: Sequence[None]) -> Sequence[int]:
        pause, longest = _SETTLE_PAUSES
        deadline = asyncio.get_running_loop().time() + _SETTLE_SECONDS
        mark, oldest = await self.look()
        while oldest <= mark.xid:
            if asyncio.get_running_loop().time() > deadline:
                raise Unavailable(
                    "An old transaction holds up the project's events; those of a single job can be had.",
                    retry_after=5,
                )
            await asyncio.sleep(pause)
            pause = min(2 * pause, longest)
            _, oldest = await self.look()
        return [mark.id] * len(askers)


def invalid_last_event_id(why: str) -> BadRequest:
    return BadRequest(
        f"The Last-Event-ID is not one that this API gave out: {why}. Leave it out to begin with what comes next.",
        code="invalid_last_event_id",
        errors=[FieldError("Last-Event-ID", "invalid", "must be the id of an event, a whole number")],
    )
