"""Recording how an attempt ended: the row, and the pictures that came with it, in one transaction."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import psycopg
from sqlalchemy import Row
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.artifacts import queries as artifacts
from shared.checkpoints import checkpoint
from shared.coalesce import Coalescer
from shared.db import Database, HeldError, is_unavailable
from shared.jobs import outcomes, queries
from shared.providers.base import ImageBytes
from shared.wakeups import Wakeups
from worker import report
from worker.flights import Flight

log = logging.getLogger(__name__)

#: Between tries while the database is away: the first pause and the longest.
RETRY_SECONDS = (0.1, 2.0)
NOT_OURS = "no longer ours"


class _FencedOut(Exception):
    """Another attempt has taken over: the transaction is rolled back, pictures and all."""


class Recorder:
    """Writes endings; those of concurrent jobs share statements."""

    def __init__(self, database: Database, wakeups: Wakeups) -> None:
        self._database = database
        self._wakeups = wakeups
        # Pictures take a connection each: two stay free for gates and whatever else needs a transaction.
        self._picture_slots = asyncio.Semaphore(max(1, database.pool_size - 2))
        self._records: Coalescer[dict[str, Any], str | None] = Coalescer(
            self._record_batch, lanes=2, is_shared_fault=is_unavailable
        )

    @asynccontextmanager
    async def picture_transaction(self) -> AsyncIterator[AsyncConnection]:
        """A transaction in which pictures are read or written; few at once, so others find connections."""
        async with self._picture_slots, self._database.transaction() as db:
            yield db

    async def record(
        self,
        flight: Flight,
        row: dict[str, Any],
        project_id: UUID | None = None,
        images: Sequence[ImageBytes] = (),
    ) -> str:
        """Writes the ending. While the database is away the answer is held, as long as it may still be written.

        A result that the database refuses ends the job as failed: left alone, it would be paid for again
        and again, until its attempts are used up.
        """
        delay, longest = RETRY_SECONDS
        state, uncertain = None, False
        while not flight.fenced:
            try:
                if images and project_id is not None:
                    state = await self._record_with_images(row, project_id, images)
                else:
                    state = await self._records(row)
                break
            except Exception as error:
                if not is_unavailable(error) and row["result"] is not None:
                    log.exception("the result cannot be stored")
                    row, images = outcomes.not_storable(row, type(error).__name__), ()
                    continue
                if not is_unavailable(error) or time.monotonic() > flight.deadline:
                    raise
                if not isinstance(error, HeldError):
                    self._database.outage.failed(error)
                uncertain = True
                await asyncio.sleep(delay)
                delay = min(delay * 2, longest)
        if state is None and uncertain:
            state = await self._recorded_before(row)
        report.ended(flight, row, state)
        return state or NOT_OURS

    async def _record_with_images(
        self, row: dict[str, Any], project_id: UUID, images: Sequence[ImageBytes]
    ) -> str | None:
        """Pictures and ending in one transaction: both or neither.

        The ending comes last: its row lock would hold up renewals while a large picture is written.
        """
        try:
            async with self.picture_transaction() as db:
                for position, (image, entry) in enumerate(zip(images, row["result"]["images"], strict=True)):
                    await artifacts.insert(
                        db,
                        artifact_id=UUID(entry["artifact_id"]),
                        project_id=project_id,
                        job_id=row["job_id"],
                        role="output",
                        position=position,
                        media_type=image.media_type,
                        data=image.data,
                        digest=bytes.fromhex(entry["sha256"]),
                        width=image.width,
                        height=image.height,
                    )
                await checkpoint("artifacts", row["job_id"])
                finished = await queries.finish(db, [row])
                [state] = await _states(db, finished, [row])
                if isinstance(state, Exception):
                    raise state
                if state is None:
                    raise _FencedOut
        except _FencedOut:
            return None
        except IntegrityError as error:
            if _has_pictures_already(error):
                return None
            raise
        self._wakeups.changed([(project_id, row["job_id"])])
        return str(state)

    async def _recorded_before(self, row: dict[str, Any]) -> str | None:
        """The job's state where an earlier try was committed, and only the answer to that was lost."""
        try:
            found = await queries.recorded(
                self._database.direct, row["job_id"], row["number"], row["outcome"]
            )
        except Exception as error:
            if not is_unavailable(error):
                raise
            self._database.outage.failed(error)
            return None
        if found is None:
            return None
        self._wakeups.changed([(found.project_id, found.id)])
        return str(found.state)

    async def _record_batch(self, rows: Sequence[dict[str, Any]]) -> Sequence[str | Exception | None]:
        finished = await queries.finish(self._database.direct, rows)
        self._wakeups.changed([(row.project_id, row.id) for row in finished.values()])
        return await _states(self._database.direct, finished, rows)


def _has_pictures_already(error: IntegrityError) -> bool:
    """Whether the job is past this attempt: another one's pictures are there, or these."""
    cause = error.orig
    return isinstance(cause, psycopg.errors.UniqueViolation) and cause.diag.table_name == "artifacts"


async def _states(
    db: queries.Executor, finished: dict[UUID, Row[Any]], rows: Sequence[dict[str, Any]]
) -> Sequence[str | Exception | None]:
    """For each the state that was written; None where it is fenced out, an error where somebody has it locked."""
    left = [(row["job_id"], row["number"]) for row in rows if row["job_id"] not in finished]
    try:
        present = await queries.present(db, left) if left else {}
    except Exception as error:  # noqa: BLE001  for those that were not written; the others are
        return [finished[row["job_id"]].state if row["job_id"] in finished else error for row in rows]
    return [
        finished[job_id].state if job_id in finished else HeldError() if job_id in present else None
        for job_id in (row["job_id"] for row in rows)
    ]
