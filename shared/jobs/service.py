"""What the API does with jobs: submit, get, cancel, delete, result. Statements are shared by concurrent callers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Row
from uuid_utils.compat import uuid7

from shared.addresses import Policy
from shared.checkpoints import checkpoint
from shared.coalesce import Coalescer
from shared.config import Settings
from shared.db import Database, is_unavailable, within
from shared.errors import Conflict, FieldError, NotFound
from shared.events.types import ENDINGS
from shared.idempotency.claim import Answer, AnswerOf, Claim
from shared.jobs import queries, references, retention
from shared.jobs.acceptance import accept, accept_stream, resolve
from shared.jobs.drafts import Draft, Keyed, KeyedSubmits, digests_of, store_with_images
from shared.jobs.queries import NewJob
from shared.jobs.references import Named
from shared.jobs.schemas import JobSubmit
from shared.jobs.status import FINAL, State
from shared.kinds.base import Accepted, Kind
from shared.providers.catalog import ModelSpec
from shared.queue import Doorbell, RingAhead, queue_name
from shared.wakeups import Wakeups
from shared.webhooks.service import JobWebhooks

log = logging.getLogger(__name__)


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
        #: Beyond the statement timeout: only a server that hangs takes longer.
        patience = self._patience = settings.database_statement_timeout + 1
        days = settings.retention_days
        self._keep_seconds = None if days is None else days * 24 * 3600.0
        self._submits: Coalescer[dict[str, Any], NewJob] = Coalescer(
            self._submit_batch,
            lanes=2,
            by_turns=True,
            inline=True,
            max_batch=200,
            is_shared_fault=is_unavailable,
            patience=patience,
        )
        self._outbound = Policy.of(settings)
        self._keyed_submits = KeyedSubmits(database, self._patience)
        self._webhooks = JobWebhooks(database, settings)
        self._gets: Coalescer[UUID, Row[Any] | None] = Coalescer(
            self._get_batch,
            lanes=2,
            max_batch=500,
            inline=True,
            is_shared_fault=is_unavailable,
            patience=patience,
        )

    async def submit(self, project_id: UUID, job: JobSubmit, *, request_id: str | None = None) -> NewJob:
        """Stores a job durably, then tells the workers. The broker being away fails nothing.

        Raises:
            ValidationFailed: the kind, the model or the input is not allowed.
        """
        return await self.store(await self.draft(project_id, job, request_id=request_id))

    async def store(self, draft: Draft) -> NewJob:
        """Stores a draft, then tells the workers."""
        if not draft.images:
            return await self._submits(draft.row)
        stored = await within(self._patience, self._submit_with_images(draft))
        await self._publish([stored])
        return stored

    async def draft(
        self,
        project_id: UUID,
        job: JobSubmit,
        *,
        replay_of: UUID | None = None,
        request_id: str | None = None,
        look_up: bool = True,
    ) -> Draft:
        """The job as it would be stored.

        Args:
            look_up: False: what the input names is left unchecked, to be looked up with that of other jobs (``unfit``).
            request_id: names the request that asks for it.
            replay_of: the job that this one repeats.

        Raises:
            ValidationFailed: as ``submit`` does.
        """
        kind, model = resolve(job)
        if job.webhook_url is not None:
            await self._webhooks.check(project_id, job.webhook_url)
        warnings = accept_stream(model, self._settings) if job.stream else None
        accepted = await accept(kind, model, job.input, max_prompt_chars=self._settings.max_prompt_chars)
        unchecked = None
        if accepted.refers:
            unchecked = references.named(self._outbound, model, accepted)
            if look_up:
                await within(self._patience, references.check(self._database, project_id, unchecked))
                unchecked = None
        row = self._row(project_id, job, kind, model, accepted, replay_of, request_id)
        if warnings is not None:
            row |= {"stream": True, "warnings": [*accepted.warnings, *warnings]}
        return Draft(row, accepted.images, unchecked)

    async def unfit(self, project_id: UUID, inputs: Sequence[Named]) -> list[list[FieldError]]:
        """What is wrong with what each of these inputs names; all of it is looked up in one statement."""
        return await within(self._patience, references.check_all(self._database, project_id, inputs))

    async def submit_keyed(self, draft: Draft, claim: Claim, answer_of: AnswerOf) -> tuple[NewJob, Answer]:
        """Stores a draft together with the answer under its idempotency key, then tells the workers.

        Raises:
            KeyTaken: the key has an answer already; nothing was stored.
        """
        stored, answer = await self._keyed_submits(Keyed(draft, claim, answer_of))
        await self._publish([stored])
        return stored, answer

    async def get(self, project_id: UUID, job_id: UUID) -> Row[Any]:
        """Raises: NotFound."""
        row = await self._gets(job_id)
        if row is None or row.project_id != project_id:
            raise not_found(job_id)
        return row

    async def attempts(self, job_id: UUID) -> Sequence[Row[Any]]:
        async def read() -> Sequence[Row[Any]]:
            async with self._database.transaction() as db:
                return await queries.attempts(db, job_id)

        return await within(self._patience, read())

    async def cancel(self, project_id: UUID, job_id: UUID) -> Cancelled:
        """Cancels at once where nobody runs the job; otherwise its worker is told. Cancelling twice is fine.

        Raises:
            NotFound: no such job in the project.
        """

        async def write() -> tuple[Row[Any], bool, Sequence[Row[Any]]]:
            async with self._database.transaction() as db:
                changed = await queries.cancel(db, project_id, job_id)
                row = changed or (await queries.get(db, [job_id])).get(job_id)
                if row is None or row.project_id != project_id:
                    raise not_found(job_id)
                return row, changed is not None, await queries.attempts(db, job_id)

        row, changed, attempts = await within(self._patience, write())
        if changed:
            self._wakeups.changed([(project_id, job_id)])
        if row.state == State.RUNNING:
            # Asked again, too: the first word to its worker may have been lost.
            await self._wakeups.cancel_requested(job_id)
            outcome = "cancel_requested"
        else:
            outcome = "cancelled" if row.state == State.CANCELLED else "already_final"
        return Cancelled(row, outcome, any(attempt.sent_at for attempt in attempts))

    async def delete(self, project_id: UUID, job_id: UUID) -> None:
        """Deletes a final job and all that belongs to it.

        Raises:
            NotFound: no such job in the project.
            Conflict: it is not final.
        """

        async def write() -> None:
            async with self._database.transaction() as db:
                if await retention.delete(db, project_id, job_id):
                    return
                row = (await queries.get(db, [job_id])).get(job_id)
                if row is None or row.project_id != project_id:
                    raise not_found(job_id)
                raise Conflict(
                    f"The job is {row.state}; only a final one can be deleted. Cancel it first, and wait for its end.",
                    code="job_not_final",
                )

        await within(self._patience, write())

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

    def _row(
        self,
        project_id: UUID,
        job: JobSubmit,
        kind: Kind,
        model: ModelSpec,
        accepted: Accepted,
        replay_of: UUID | None,
        request_id: str | None,
    ) -> dict[str, Any]:
        row = {
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
            "replay_of": replay_of,
            "keep_seconds": job.keep_for or self._keep_seconds,
            "request_id": request_id,
        }
        if job.webhook_url is not None:
            row |= {"webhook_url": job.webhook_url, "webhook_events": job.webhook_events or ENDINGS}
        return row

    async def _submit_batch(self, rows: Sequence[dict[str, Any]]) -> Sequence[NewJob]:
        for row in rows:
            await checkpoint("inserting", row["id"])
        ahead = self._ring_ahead(rows)
        try:
            if ahead is not None:
                await ahead.leaves()
            jobs = await queries.submit(self._database.direct, rows)
        except BaseException:
            if ahead is not None:
                ahead.call_off()
            raise
        await self._publish(jobs, ahead)
        return jobs

    def _ring_ahead(self, rows: Sequence[dict[str, Any]]) -> RingAhead | None:
        """Rings for a lone job while it is stored; for many, a worker would only wait for them, instead of working.

        Nor where they will hardly be stored: a worker would wait for what never comes.
        """
        database = self._database
        if self._submits.crowded or any(row["scheduled_at"] for row in rows):
            return None
        if database.outage.lasts or database.refuses_writes:
            return None
        return self._doorbell.ring_ahead([(row["id"], row["queue"]) for row in rows])

    async def _publish(self, jobs: Sequence[NewJob], ahead: RingAhead | None = None) -> None:
        """Tells workers and whoever waits about jobs that are stored. The broker being away fails nothing."""
        for job in jobs:
            await checkpoint("committed", job.id)
        self._wakeups.changed_soon([(job.project_id, job.id) for job in jobs])
        if ahead is not None:
            unsent = await ahead.stored()
        else:
            unsent = await self._doorbell.ring([(job.id, job.queue) for job in jobs if job.published])
        if unsent:
            await self._note_unpublished(unsent)

    async def tell(self, project_id: UUID, batch_id: UUID, messages: Sequence[tuple[UUID, str]]) -> None:
        """Likewise about those jobs of a new batch that may run now: id and queue of each.

        Nobody waits for one of them yet: one wake-up for the project says it all.
        """
        self._wakeups.changed([(project_id, batch_id)])
        unsent = await self._doorbell.ring(messages)
        if unsent:
            await self._note_unpublished(unsent)

    async def _submit_with_images(self, draft: Draft) -> NewJob:
        digests = await digests_of(draft.inline)
        async with self._database.transaction() as db:
            return await store_with_images(db, draft, digests)

    async def _get_batch(self, ids: Sequence[UUID]) -> Sequence[Row[Any] | None]:
        found = await queries.get(self._database.direct, ids)
        return [found.get(job_id) for job_id in ids]

    async def _note_unpublished(self, ids: Sequence[UUID]) -> None:
        """The jobs are stored either way: without this note the reconciler only takes longer to see them.

        So nothing that goes wrong here may turn the 202 into an error, for which the client would submit again.
        """

        async def write() -> None:
            async with self._database.transaction() as db:
                await queries.unpublish(db, ids)

        try:
            await within(self._patience, write())
        except Exception as error:
            if is_unavailable(error):
                self._database.outage.failed(error)
            else:
                log.exception("%d jobs could not be noted as unpublished", len(ids))


def not_found(job_id: UUID) -> NotFound:
    return NotFound(f"There is no job {job_id} in this project.", code="job_not_found")
