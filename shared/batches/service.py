"""What the API does with batches: make, look at, list, cancel, and read their results."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.batches import queries
from shared.batches.cancel import Canceller, Found
from shared.batches.intake import Intake, Reference
from shared.batches.schemas import BatchState
from shared.checkpoints import checkpoint
from shared.coalesce import SingleFlight
from shared.config import Settings
from shared.db import Database, within
from shared.errors import MAX_ERRORS, NotFound, ValidationFailed
from shared.idempotency import queries as idempotency
from shared.idempotency.claim import Answer, Claim
from shared.jobs import queries as jobs
from shared.jobs import references
from shared.jobs.drafts import digests_of, store_images
from shared.jobs.search import Position
from shared.jobs.service import JobService
from shared.jobs.status import State
from shared.wakeups import Wakeups

#: How old counts may be, in seconds. However many ask, a batch of 10,000 jobs is counted so often and no more.
_COUNTED_SECONDS = 1.0
_COUNTS_KEPT = 1000
#: Beyond what a single statement may take: so many jobs are stored in a second wherever anything works.
_SLOWEST = 500
#: A cancel goes on for so long in its request; beat does the rest.
_CANCEL_SECONDS = 5.0
_FIRST = UUID(int=0)


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch's row, and what its jobs are up to; None: not asked for."""

    row: Row[Any]
    counts: dict[str, int] | None
    cost_usd: Decimal | None

    @property
    def state(self) -> BatchState:
        return BatchState.COMPLETED if self.row.completed_at else BatchState.RUNNING


class BatchService:
    """One a process. Everything is within one project; another's ids are simply not found."""

    def __init__(self, database: Database, settings: Settings, jobs: JobService, wakeups: Wakeups) -> None:
        self._database = database
        self._jobs = jobs
        self._wakeups = wakeups
        self._patience = settings.database_statement_timeout + 1
        self._canceller = Canceller(database, wakeups)
        self._counting: SingleFlight[UUID, Counts] = SingleFlight(self._count)
        self._counted: OrderedDict[UUID, tuple[float, Counts]] = OrderedDict()

    async def create(
        self,
        intake: Intake,
        keep: tuple[Claim, Callable[[Batch], Answer]] | None = None,
    ) -> tuple[Batch, Answer | None]:
        """Stores a batch and all of its jobs, or nothing, in one transaction; then tells the workers.

        Args:
            keep: an idempotency key, and what it answers with from then on.

        Raises:
            KeyTaken: the key has an answer already; nothing was stored.
        """
        patience = self._patience + intake.total / _SLOWEST
        digests = [await digests_of(images) for _, images in intake.pictures]
        made, answer, later = await within(patience, self._store(intake, digests, keep))
        await checkpoint("committed", intake.id)
        messages = [(job_id, queue) for job_id, queue in intake.jobs if job_id not in later]
        await self._jobs.tell(intake.project_id, intake.id, messages)
        return made, answer

    async def _store(
        self,
        intake: Intake,
        digests: Sequence[Sequence[bytes]],
        keep: tuple[Claim, Callable[[Batch], Answer]] | None,
    ) -> tuple[Batch, Answer | None, frozenset[UUID]]:
        later: set[UUID] = set()
        options, total = intake.options, intake.total
        async with self._database.transaction() as db:
            row = await queries.create(
                db,
                batch_id=intake.id,
                project_id=intake.project_id,
                total=total,
                tags=options.tags,
                metadata=orjson.dumps(options.metadata).decode(),
            )
            for rows in intake.chunks():
                await checkpoint("inserting", intake.id)
                later |= await jobs.submit_of_batch(db, rows)
            for (job_id, images), of_job in zip(intake.pictures, digests, strict=True):
                await store_images(db, intake.project_id, job_id, images, of_job)
            await _refer(db, intake.project_id, intake.uploads)
            made = Batch(row, {**_NONE, State.QUEUED: total}, Decimal(0))
            answer = None
            if keep is not None:
                claim, answer_of = keep
                answer = answer_of(made)
                await idempotency.keep(db, [(claim, answer)])
            await checkpoint("inserted", intake.id)
        return made, answer, frozenset(later)

    async def get(self, project_id: UUID, batch_id: UUID) -> Batch:
        """Raises: NotFound."""
        row = await self.row(project_id, batch_id)
        if row.completed_at is not None:
            return _completed(row)
        return Batch(row, *await self._fresh_counts(batch_id))

    async def row(self, project_id: UUID, batch_id: UUID) -> Row[Any]:
        """Without what its jobs are up to. Raises: NotFound."""

        async def read() -> Row[Any] | None:
            async with self._database.reading() as db:
                return await queries.get(db, project_id, batch_id)

        row = await within(self._patience, read())
        if row is None:
            raise not_found(batch_id)
        return row

    async def page(
        self,
        project_id: UUID,
        *,
        state: BatchState | None,
        after: Position | None,
        limit: int,
    ) -> list[Batch]:
        """Batches after a position, newest first. Those that run are not counted: a page may hold a million jobs."""
        until, until_id = after or ("infinity", _FIRST)

        async def read() -> list[Row[Any]]:
            async with self._database.reading() as db:
                return await queries.page(
                    db, project_id, state=state, until=until, until_id=until_id, limit=limit
                )

        rows = await within(self._patience, read())
        return [_completed(row) if row.completed_at else Batch(row, None, None) for row in rows]

    async def cancel(self, project_id: UUID, batch_id: UUID) -> tuple[Batch, Found]:
        """Cancels what is left of a batch. What takes too long, or is interrupted, beat goes on with.

        Raises:
            NotFound: no such batch in the project.
        """

        async def note() -> None:
            async with self._database.transaction() as db:
                await queries.request_cancel(db, project_id, batch_id)

        row = await self.row(project_id, batch_id)
        if row.completed_at is not None:
            return _completed(row), Found()
        await within(self._patience, note())
        found = await within(
            _CANCEL_SECONDS + self._patience,
            self._canceller.cancel(project_id, batch_id, seconds=_CANCEL_SECONDS),
        )
        self._counted.pop(batch_id, None)
        return await self.get(project_id, batch_id), found

    async def completion(self, batch_id: UUID) -> int | None:
        """The id of the event that says that the batch is completed; None: it is not."""

        async def read() -> int | None:
            async with self._database.reading() as db:
                return await queries.completion(db, batch_id)

        return await within(self._patience, read())

    async def results(self, batch_id: UUID, after: int | None) -> AsyncIterator[Sequence[Row[Any]]]:
        """Pages of ``ResultLine``, in the order of the batch; between two of them nothing is held."""
        position: UUID | None = _FIRST
        if after is not None:
            position = await within(self._patience, self._id_at(batch_id, after))
        while rows := await within(self._patience, self._results(batch_id, position or _FIRST)):
            position = rows[-1].id
            yield rows

    async def _id_at(self, batch_id: UUID, index: int) -> UUID | None:
        async with self._database.reading() as db:
            return await queries.id_at(db, batch_id, index)

    async def _results(self, batch_id: UUID, after: UUID) -> list[Row[Any]]:
        async with self._database.reading() as db:
            return await queries.results(db, batch_id, after=after)

    async def _fresh_counts(self, batch_id: UUID) -> Counts:
        counted = self._counted.get(batch_id)
        if counted is not None and time.monotonic() - counted[0] < _COUNTED_SECONDS:
            return counted[1]
        return await within(self._patience, self._counting(batch_id))

    async def _count(self, batch_id: UUID) -> Counts:
        async with self._database.reading() as db:
            rows = await queries.count(db, batch_id)
        counts = (
            _NONE | {row.state: row.jobs for row in rows},
            sum((row.cost_usd for row in rows), Decimal(0)),
        )
        self._counted[batch_id] = time.monotonic(), counts
        self._counted.move_to_end(batch_id)
        if len(self._counted) > _COUNTS_KEPT:
            self._counted.popitem(last=False)
        return counts


async def _refer(db: AsyncConnection, project_id: UUID, wanted: Sequence[Reference]) -> None:
    """Raises: ValidationFailed: uploads went since they were looked up."""
    gone = await references.refer(db, project_id, [(each.job_id, each.image) for each in wanted])
    if gone:
        errors = (each.of(references.missing(each.image)) for each in wanted if each.image.upload_id in gone)
        raise ValidationFailed(
            "The batch names uploads that are not there, and none of its jobs was stored.",
            errors=list(islice(errors, MAX_ERRORS + 1)),
        )


#: Jobs by state, and what they cost.
Counts = tuple[dict[str, int], Decimal]
_NONE: dict[str, int] = dict.fromkeys(map(str, State), 0)


def not_found(batch_id: UUID) -> NotFound:
    return NotFound(f"There is no batch {batch_id} in this project.", code="batch_not_found")


def _completed(row: Row[Any]) -> Batch:
    return Batch(row, _NONE | row.counts, row.cost_usd)
