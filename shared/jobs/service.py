"""What the API does with jobs: submit, get, list, cancel, result. Statements are shared by concurrent callers."""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import ValidationError
from sqlalchemy import Row, text
from uuid_utils.compat import uuid7

from shared.artifacts import queries as artifacts
from shared.checkpoints import checkpoint
from shared.coalesce import Coalescer, SingleFlight
from shared.config import Settings
from shared.db import Database, is_unavailable, within
from shared.errors import BadRequest, Conflict, FieldError, NotFound, ValidationFailed, field_errors, shown
from shared.jobs import queries, search, totals
from shared.jobs.schemas import JobFilter, JobQuery, JobsCancel, JobSubmit, SummaryQuery
from shared.jobs.status import FINAL, State, WaitingReason
from shared.kinds import KINDS
from shared.kinds.base import Accepted, InputRejected, Kind
from shared.providers.catalog import ModelSpec, catalog, models_for
from shared.queue import Doorbell, queue_name
from shared.wakeups import Wakeups

log = logging.getLogger(__name__)

#: Inputs with more bytes than this are checked on a thread: decoding pictures takes time.
_INLINE_BYTES = 64 * 1024
#: How long the answer to "is any worker alive?" is believed.
_WORKERS_CACHE_SECONDS = 2.0
#: A worker that has not been heard of for this long counts as gone.
WORKER_ALIVE_SECONDS = 30.0

#: Jobs that are cancelled in one transaction, and seconds that one request spends on it at most.
_CANCEL_BATCH = 200
_CANCEL_ALL_SECONDS = 5.0

_LIVE_QUEUES = text("""
    SELECT DISTINCT unnest(queues) AS queue FROM workers
    WHERE heartbeat_at > now() - make_interval(secs => :alive)
""")


@dataclass(frozen=True, slots=True)
class Cancelled:
    """What a cancel found: the job afterwards, what was done, and whether money may have been spent."""

    job: Row[Any]
    outcome: str
    provider_called: bool


class JobService:
    """One a process. Everything is within one project; another's ids are simply not found."""

    def __init__(self, database: Database, settings: Settings, doorbell: Doorbell, wakeups: Wakeups) -> None:
        self._database = database
        self._settings = settings
        self._doorbell = doorbell
        self._wakeups = wakeups
        self._submits: Coalescer[dict[str, Any], Row[Any]] = Coalescer(
            self._submit_batch, lanes=2, max_batch=200, is_shared_fault=is_unavailable
        )
        self._gets: Coalescer[UUID, Row[Any] | None] = Coalescer(
            self._get_batch, lanes=2, max_batch=500, is_shared_fault=is_unavailable
        )
        self._unpublished: Coalescer[UUID, None] = Coalescer(self._unpublish_batch, max_batch=500)
        self._live_queues: tuple[float, frozenset[str]] = (float("-inf"), frozenset())
        self._ask_live_queues: SingleFlight[None, frozenset[str]] = SingleFlight(self._read_live_queues)
        #: Beyond the statement timeout: only a server that hangs takes longer.
        self._patience = settings.database_statement_timeout + 1

    async def submit(self, project_id: UUID, job: JobSubmit) -> Row[Any]:
        """Stores a job durably, then tells the workers. The broker being away fails nothing.

        Raises:
            ValidationFailed: the kind, the model or the input is not allowed.
        """
        kind, model = resolve(job)
        accepted = await self._accept(kind, model, job.input)
        row = self._row(project_id, job, kind, model, accepted)
        if accepted.images:
            stored = await within(self._patience, self._submit_with_images(row, accepted))
        else:
            async with asyncio.timeout(self._patience):
                stored = await self._submits(row)
        await checkpoint("committed", stored.id)
        if stored.published_at is not None and not await self._doorbell.ring(stored.id, stored.queue):
            await self._note_unpublished(stored.id)
        return stored

    async def get(self, project_id: UUID, job_id: UUID) -> Row[Any]:
        """Raises: NotFound."""
        async with asyncio.timeout(self._patience):
            row = await self._gets(job_id)
        if row is None or row.project_id != project_id:
            raise not_found(job_id)
        return row

    async def attempts(self, job_id: UUID) -> Sequence[Row[Any]]:
        async def read() -> Sequence[Row[Any]]:
            async with self._database.transaction() as db:
                return await queries.attempts(db, job_id)

        return await within(self._patience, read())

    async def list(self, project_id: UUID, query: JobQuery) -> tuple[list[Row[Any]], str | None]:
        """A page and the cursor of the next one.

        Raises:
            BadRequest: the cursor is not one of ours.
        """
        after = _read_cursor(query.cursor) if query.cursor else None

        async def read() -> search.Page:
            async with self._database.transaction() as db:
                return await search.page(db, project_id, query, limit=query.limit, after=after)

        page = await within(self._patience, read())
        return page.rows, _cursor(page.next) if page.next else None

    async def summary(self, project_id: UUID, query: SummaryQuery) -> dict[str, Any]:
        """``JobsSummary``: what the project's jobs are, why they wait, and what they cost."""

        async def read() -> tuple[Sequence[Row[Any]], Sequence[Row[Any]]]:
            async with self._database.transaction() as db:
                await db.execute(totals.ONE_SNAPSHOT)
                await search.plan_each_time(db)
                ended = await totals.ended(db, project_id, query.finished_after, query.finished_before)
                return ended, await totals.live(db, project_id)

        ended, live = await within(self._patience, read())
        waiting: Counter[str] = Counter()
        for row in live:
            if row.state == State.QUEUED:
                reason = await self.waiting_reason(row)
                assert reason is not None  # it is queued
                waiting[reason.value] += row.jobs
        return totals.summary(ended, live, waiting)

    async def cancel_all(self, project_id: UUID, request: JobsCancel) -> dict[str, Any]:
        """``JobsCancelled``: cancels what the filter lets through, a few hundred in each transaction."""
        states = [state for state in request.filter.state or State if state not in FINAL]
        wanted = request.filter.model_copy(update={"state": states})
        found: Counter[str] = Counter()
        after: search.Position | None = None
        ends_at = time.monotonic() + _CANCEL_ALL_SECONDS
        more = bool(states)
        while more and found["matched"] < request.limit and time.monotonic() < ends_at:
            limit = min(_CANCEL_BATCH, request.limit - found["matched"])
            page, changed = await within(
                self._patience, self._cancel_page(project_id, wanted, limit, after, dry_run=request.dry_run)
            )
            found["matched"] += len(page.rows)
            for row in changed:
                found[row.state] += 1
                if row.state == State.RUNNING:
                    await self._wakeups.cancel_requested(row.id)
            after, more = page.next, page.next is not None
        return {
            "dry_run": request.dry_run,
            "matched": found["matched"],
            "cancelled": found[State.CANCELLED],
            "cancel_requested": found[State.RUNNING],
            "more": more,
        }

    async def _cancel_page(
        self, project_id: UUID, wanted: JobFilter, limit: int, after: search.Position | None, *, dry_run: bool
    ) -> tuple[search.Page, Sequence[Row[Any]]]:
        async with self._database.transaction() as db:
            page = await search.page(db, project_id, wanted, limit=limit, after=after)
            if dry_run or not page.rows:
                return page, []
            return page, await queries.cancel_many(db, project_id, [row.id for row in page.rows])

    async def cancel(self, project_id: UUID, job_id: UUID) -> Cancelled:
        """Cancels at once where nobody runs the job; otherwise its worker is told. Cancelling twice is fine.

        Raises:
            NotFound: no such job in the project.
        """

        async def write() -> tuple[Row[Any], Sequence[Row[Any]]]:
            async with self._database.transaction() as db:
                changed = await queries.cancel(db, project_id, job_id)
                row = changed or (await queries.get(db, [job_id])).get(job_id)
                if row is None or row.project_id != project_id:
                    raise not_found(job_id)
                return row, await queries.attempts(db, job_id)

        row, attempts = await within(self._patience, write())
        if row.state == State.RUNNING:
            await self._wakeups.cancel_requested(job_id)
            outcome = "cancel_requested"
        else:
            outcome = "cancelled" if row.state == State.CANCELLED else "already_final"
        return Cancelled(row, outcome, any(attempt.sent_at for attempt in attempts))

    async def result(self, project_id: UUID, job_id: UUID) -> Row[Any]:
        """The row with ``kind`` and ``result`` of a succeeded job.

        Raises:
            NotFound: no such job in the project.
            Conflict: it has not succeeded (yet); the code says which.
        """

        async def read() -> Row[Any] | None:
            async with self._database.transaction() as db:
                return await queries.result(db, project_id, job_id)

        row = await within(self._patience, read())
        if row is None:
            raise not_found(job_id)
        if row.state == State.SUCCEEDED:
            return row
        if row.state in FINAL:
            reason = f": {row.error['message']}" if row.error else ""
            became = "was cancelled" if row.state == State.CANCELLED else row.state
            raise Conflict(f"The job {became}, so there is no result{reason}.", code=f"job_{row.state}")
        raise Conflict(
            f"The job is {row.state}; poll /api/v1/jobs/{job_id} until it is final.",
            code="job_not_finished",
            retry_after=1,
        )

    async def waiting_reason(self, row: Row[Any]) -> WaitingReason | None:
        """Why a queued job waits: what is stored, else whether any worker takes from its queue.

        Where nobody can be asked about workers it is taken to be in the queue: a submit is stored by now.
        """
        if row.state != State.QUEUED:
            return None
        if row.waiting_reason:
            return WaitingReason(row.waiting_reason)
        try:
            served = row.queue in await self.live_queues()
        except Exception as error:
            if not is_unavailable(error):
                raise
            self._database.outage.failed(error)
            served = True
        return WaitingReason.IN_QUEUE if served else WaitingReason.NO_WORKERS

    async def live_queues(self) -> frozenset[str]:
        """The queues that at least one live worker takes jobs from."""
        checked_at, queues = self._live_queues
        if time.monotonic() - checked_at > _WORKERS_CACHE_SECONDS:
            async with asyncio.timeout(self._patience):
                return await self._ask_live_queues(None)
        return queues

    async def _read_live_queues(self, _: None) -> frozenset[str]:
        async with self._database.reading() as db:
            rows = await db.execute(_LIVE_QUEUES, {"alive": WORKER_ALIVE_SECONDS})
            queues = frozenset(row.queue for row in rows)
        self._live_queues = (time.monotonic(), queues)
        return queues

    async def _accept(self, kind: Kind, model: ModelSpec, value: dict[str, Any]) -> Accepted:
        limit = self._settings.max_prompt_chars
        try:
            if _is_small(value):
                return _checked(kind, model, value, limit)
            return await asyncio.to_thread(_checked, kind, model, value, limit)
        except ValidationError as error:
            raise ValidationFailed(
                f"The input does not fit {kind.name}; GET /api/v1/kinds has its schema.",
                errors=field_errors(error, "/input"),
            ) from None
        except InputRejected as error:
            errors = [FieldError(f"/input{e.pointer}", e.code, e.message, e.allowed) for e in error.errors]
            raise ValidationFailed(f"The input is not possible with {model.alias}.", errors=errors) from None

    def _row(
        self, project_id: UUID, job: JobSubmit, kind: Kind, model: ModelSpec, accepted: Accepted
    ) -> dict[str, Any]:
        return {
            "id": uuid7(),
            "project_id": project_id,
            "kind": kind.name,
            "model": model.alias,
            "priority": job.priority,
            "queue": queue_name(kind.queue, job.priority),
            "input": accepted.stored,
            "warnings": accepted.warnings,
            "tags": job.tags,
            "metadata": job.metadata,
            "max_attempts": job.max_attempts or self._settings.job_max_attempts,
            "timeout_seconds": job.timeout or self._settings.job_timeout,
            "on_unknown": job.on_unknown,
            "scheduled_at": job.scheduled_at,
            "expires_at": job.expires_at,
        }

    async def _submit_batch(self, rows: Sequence[dict[str, Any]]) -> Sequence[Row[Any]]:
        async with self._database.transaction() as db:
            stored = await queries.submit(db, rows)
            for job_id in stored:
                await checkpoint("inserted", job_id)
        return [stored[row["id"]] for row in rows]

    async def _submit_with_images(self, row: dict[str, Any], accepted: Accepted) -> Row[Any]:
        digests = await asyncio.to_thread(
            lambda: [artifacts.digest_of(image.data) for image in accepted.images]
        )
        async with self._database.transaction() as db:
            stored = (await queries.submit(db, [row]))[row["id"]]
            for position, (image, digest) in enumerate(zip(accepted.images, digests, strict=True)):
                await artifacts.insert(
                    db,
                    artifact_id=uuid7(),
                    project_id=row["project_id"],
                    job_id=row["id"],
                    role="input",
                    position=position,
                    media_type=image.media_type,
                    data=image.data,
                    digest=digest,
                    width=image.width,
                    height=image.height,
                )
        return stored

    async def _get_batch(self, ids: Sequence[UUID]) -> Sequence[Row[Any] | None]:
        async with self._database.reading() as db:
            found = await queries.get(db, ids)
        return [found.get(job_id) for job_id in ids]

    async def _note_unpublished(self, job_id: UUID) -> None:
        """The job is stored either way: without this note the reconciler only takes longer to see it.

        So nothing that goes wrong here may turn the 202 into an error, for which the client would submit again.
        """
        try:
            async with asyncio.timeout(self._patience):
                await self._unpublished(job_id)
        except Exception as error:
            if is_unavailable(error):
                self._database.outage.failed(error)
            else:
                log.exception("job %s could not be noted as unpublished", job_id)

    async def _unpublish_batch(self, ids: Sequence[UUID]) -> Sequence[None]:
        async with self._database.transaction() as db:
            await queries.unpublish(db, ids)
        return [None] * len(ids)


def resolve(job: JobSubmit) -> tuple[Kind, ModelSpec]:
    """The kind and model that a submit asks for.

    Raises:
        ValidationFailed: unknown, or not made for each other; the error lists what is possible.
    """
    kind = KINDS.get(job.kind)
    if kind is None:
        message = f"{shown(job.kind)} is no kind of job; use one of: {', '.join(KINDS)}"
        raise ValidationFailed(
            "Unknown kind.",
            code="unknown_kind",
            errors=[FieldError("/kind", "not_allowed", message, list(KINDS))],
        )
    model = catalog().get(kind.default_model if job.model is None else job.model)
    if model is None or kind.name not in model.kinds:
        allowed = [entry.alias for entry in models_for(kind.name)]
        what = "is no model here" if model is None else f"does not do {kind.name}"
        message = f"{shown(job.model)} {what}; use one of: {', '.join(allowed)}"
        raise ValidationFailed(
            "Unknown model.",
            code="unknown_model",
            errors=[FieldError("/model", "not_allowed", message, allowed)],
        )
    return kind, model


def not_found(job_id: UUID) -> NotFound:
    return NotFound(f"There is no job {job_id} in this project.", code="job_not_found")


def _checked(kind: Kind, model: ModelSpec, value: dict[str, Any], max_prompt_chars: int) -> Accepted:
    _refuse_null_characters(value)
    return kind.accept(value, model, max_prompt_chars=max_prompt_chars)


def _refuse_null_characters(value: dict[str, Any]) -> None:
    """PostgreSQL's text holds every character but U+0000.

    Walked level by level: a hostile depth must not overflow the stack.
    """
    level: list[Any] = [value]
    while level:
        deeper: list[Any] = []
        for item in level:
            if isinstance(item, str):
                if "\0" in item:
                    raise InputRejected(
                        [
                            FieldError(
                                "", "null_character", "holds the character U+0000, which cannot be stored"
                            )
                        ]
                    )
            elif isinstance(item, dict):
                deeper += item.keys()
                deeper += item.values()
            elif isinstance(item, list):
                deeper += item
        level = deeper


def _is_small(value: dict[str, Any]) -> bool:
    """Whether checking it takes no time to speak of. It is not validated yet: anything may stand in it."""
    return len(value) < 50 and all(map(_is_light, value.values()))


def _is_light(item: Any) -> bool:
    match item:
        case str():
            return len(item) < _INLINE_BYTES
        case list():
            return len(item) < 50 and not any(
                isinstance(inner, list | dict) or (isinstance(inner, str) and len(inner) > 1000)
                for inner in item
            )
        case dict():
            return not item
        case _:
            return True


def _cursor(position: search.Position) -> str:
    return (
        base64.urlsafe_b64encode(f"{position.created_at.isoformat()}/{position.id}".encode())
        .decode()
        .rstrip("=")
    )


def _read_cursor(cursor: str) -> search.Position:
    try:
        decoded = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
        moment, _, job_id = decoded.partition("/")
        parsed = datetime.fromisoformat(moment)
        if parsed.tzinfo is None:
            raise ValueError("no time zone")
        return search.Position(parsed, UUID(job_id))
    except (ValueError, binascii.Error):
        raise BadRequest(
            "The cursor is not one that this API gave out; leave it out to start at the newest job.",
            code="invalid_cursor",
            errors=[FieldError("?cursor", "invalid", "not a cursor from next_cursor")],
        ) from None
