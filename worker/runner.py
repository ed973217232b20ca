"""claim → call → record: what happens to one job in one attempt.

Two short transactions, and where the call does not follow at once or the job's policy asks for it, a note between
them; none is open while the provider is called.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from hashlib import sha256
from typing import Any, Literal, TypeVar
from uuid import UUID

from sqlalchemy import Row
from uuid_utils.compat import uuid7

from shared import storage
from shared.artifacts import queries as artifacts
from shared.checkpoints import checkpoint
from shared.coalesce import Coalescer
from shared.config import Settings
from shared.db import Database, HeldError, is_unavailable
from shared.jobs import claims, outcomes, queries
from shared.jobs.claims import Left
from shared.jobs.outcomes import Backoff, Claimed, Served
from shared.kinds import KINDS, StoredImage
from shared.kinds.base import INPUT_URLS
from shared.logging import bound, context
from shared.providers import Drivers
from shared.providers.base import (
    Call,
    Driver,
    Generation,
    GenerationRequest,
    ImageBytes,
    ProviderError,
    RetryableError,
    UnknownOutcomeError,
)
from shared.providers.catalog import ImageCapabilities, ModelSpec, catalog
from shared.providers.pricing import estimate
from shared.queue import AHEAD_SECONDS
from shared.wakeups import Wakeups
from worker.accounts import Account
from worker.deltas import DeltaSender, LiveText
from worker.flights import Flight, Flights
from worker.gatekeeper import Gatekeeper
from worker.inputs import SHARE, InputImages
from worker.recorder import NOT_OURS, RETRY_SECONDS, Recorder

log = logging.getLogger(__name__)

#: Beyond a job's timeout: the time in which an answer may still be recorded.
RECORD_GRACE_SECONDS = 60.0
#: Kinds whose call follows its claim at once: nothing is read from the database in between.
_NOTED_BY_CLAIM = tuple(name for name, kind in KINDS.items() if kind.queue == "text")
#: Of a lease: for so long after a claim was asked for it is surely ours still, if this process did not stand still.
_NOTE_HOLDS = 0.25
#: Beyond a driver's own deadline: it must never come to this.
_DRIVER_GRACE_SECONDS = 5.0
#: While a message is ahead of its job, it is looked for at once, as it takes about as long to be stored as a look; then
#: after these waits, the first and the longest.
_LOOK_SECONDS = 0.001, 0.256
#: Waits that any message is worth: the way to a job's commit is rarely longer.
_BRIEF_SECONDS = 0.032
#: After one that never came, for so long one of so many slots at most waits longer than that.
_DOUBTFUL_SECONDS, _DOUBTFUL_SHARE = 10.0, 4
#: A job that was made so long ago and is not there has been deleted: generous, as it takes two machines' clocks to tell.
_BYGONE_SECONDS = 300.0

Result = TypeVar("Result")


class _CalledOff(Exception):
    """Whoever waits for this attempt does so no longer; the provider was not called."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A claimed job, ready to be sent."""

    project_id: UUID
    kind: str
    stored: dict[str, Any]
    model: ModelSpec
    request: GenerationRequest
    driver: Driver
    timeout: float
    account: Account
    #: The model has a gate, and it let this job through.
    gated: bool
    #: Takes the text as it is made, where somebody wants that.
    live: LiveText | None


class Runner:
    """Runs attempts; one a process. Claims, notes and records of concurrent jobs share statements."""

    def __init__(
        self,
        database: Database,
        settings: Settings,
        drivers: Drivers,
        flights: Flights,
        wakeups: Wakeups,
        name: str,
    ) -> None:
        self._database = database
        self._wakeups = wakeups
        self._settings = settings
        self._drivers = drivers
        self._flights = flights
        self._name = name
        self._inputs = InputImages(settings)
        self._gates = Gatekeeper(database, settings)
        self._recorder = Recorder(database, wakeups)
        self._deltas = DeltaSender(wakeups.redis)
        self._backoff = Backoff(settings.retry_base_seconds, settings.retry_cap_seconds)
        self._claims: Coalescer[UUID, Row[Any] | Left | None] = Coalescer(
            self._claim_batch, is_shared_fault=is_unavailable
        )
        # Apart from the others, which must not wait for a gate's lock.
        self._gated_claims: Coalescer[UUID, Row[Any] | None] = Coalescer(
            self._claim_gated_batch, is_shared_fault=is_unavailable
        )
        self._notes: Coalescer[dict[str, Any], bool] = Coalescer(
            self._note_batch, is_shared_fault=is_unavailable
        )
        #: Jobs whose messages came first, and until when (monotonic) such messages are doubted.
        self._awaited = 0
        self._doubts_until = 0.0

    async def close(self) -> None:
        """Passes on what text there is; to be called when nothing runs any more."""
        await self._deltas.close()
        await self._inputs.aclose()

    async def run(self, job_id: UUID) -> str:
        """Runs one attempt of a job, if it may run now. Answers what became of it, for people.

        A message for a job that is not queued (a duplicate, a cancelled one) ends here, before any call.
        """
        with bound(job_id=str(job_id)):
            return await self._run(job_id)

    async def _run(self, job_id: UUID) -> str:
        await checkpoint("popped", job_id)
        if self._flights.draining:
            return await self._ring_again(job_id)
        asked = time.monotonic()
        # The message is held meanwhile: letting it go would empty the broker's queues for nothing.
        row = await self._patiently(lambda: self._claim(job_id))
        if row is None:
            return "nothing to do"
        claimed = Claimed(row.id, row.attempt, row.snoozes, row.max_attempts, row.on_unknown)
        deadline = time.monotonic() + row.timeout_seconds + RECORD_GRACE_SECONDS
        flight = Flight(claimed, row.model, deadline)
        if row.noted:
            flight.noted_until = asked + self._settings.lease_seconds * _NOTE_HOLDS
        self._flights.add(flight)
        if row.request_id:  # ends with this attempt's own context: see run
            context.set({**context.get(), "request_id": row.request_id})
        try:
            await checkpoint("claimed", job_id)
            return await self._attempt(flight, row)
        finally:
            self._flights.remove(flight)

    async def _attempt(self, flight: Flight, row: Row[Any]) -> str:
        try:
            prepared = await self._patiently(lambda: self._prepare(flight, row), until=flight.deadline)
        except _CalledOff:
            return await self._give_back(flight)
        except ProviderError as error:  # the input's pictures: nobody was asked for anything
            ending = outcomes.after_error(flight.job, error, Served(), self._backoff)
            return await self._recorder.record(flight, outcomes.not_called(ending))
        except Exception as error:
            if is_unavailable(error):
                raise  # nothing was sent: the lease runs out and another attempt begins
            log.exception("the job could not be prepared")
            broken = RetryableError(
                f"The job could not be prepared ({type(error).__name__}).", code="internal_error"
            )
            ending = outcomes.after_error(flight.job, broken, Served(), self._backoff)
            return await self._recorder.record(flight, outcomes.not_called(ending))
        if self._flights.draining:
            return await self._recorder.record(flight, outcomes.given_back(flight.job))
        if not await self._may_call(flight, prepared.account.estimate):
            return await self._give_back(flight)
        await checkpoint("sent", row.id)
        try:
            ending, images = await self._call(flight, prepared)
            await checkpoint("answered", row.id)
            what = await self._recorder.record(flight, ending, prepared.project_id, images)
        finally:
            if prepared.live is not None:
                prepared.live.end()
        await checkpoint("recorded", row.id)
        return what

    async def _ring_again(self, job_id: UUID) -> str:
        """This worker takes nothing more: the message goes to another, and its job need not wait for the reconciler."""
        for wait in _looks():
            async with self._database.transaction() as db:
                if await queries.unpublish(db, [job_id]) or not await queries.left(db, [job_id]):
                    break
            await asyncio.sleep(wait)
        return "left to another worker"

    async def _claim(self, job_id: UUID) -> Row[Any] | None:
        """The job as it was claimed; None where there is nothing to do."""
        claimed = await self._claims(job_id)
        if claimed is Left.NOT_YET:
            claimed = await self._claim_when_stored(job_id)
        if claimed is Left.AT_GATE:
            return await self._gated_claims(job_id)
        return claimed

    async def _claim_when_stored(self, job_id: UUID) -> Row[Any] | Literal[Left.AT_GATE] | None:
        """Of a job whose message came first, or that somebody has locked for a moment."""
        if _age(job_id) > _BYGONE_SECONDS:
            return None
        waits = False
        try:
            for wait in _looks():
                if wait > _BRIEF_SECONDS and not waits:
                    if not self._may_wait():
                        return None
                    waits = True
                    self._awaited += 1
                await asyncio.sleep(wait)
                claimed = await self._claims(job_id)
                if claimed is not Left.NOT_YET:
                    return claimed
        finally:
            self._awaited -= waits
        self._doubts_until = time.monotonic() + _DOUBTFUL_SECONDS
        return None

    def _may_wait(self) -> bool:
        """Where many jobs were deleted as soon as they were made, their messages get few of the slots."""
        doubts = time.monotonic() < self._doubts_until
        return not doubts or self._awaited < max(1, self._settings.worker_concurrency // _DOUBTFUL_SHARE)

    async def _patiently(self, work: Callable[[], Awaitable[Result]], *, until: float = math.inf) -> Result:
        """Does what needs the database; while that is away, again, until a monotonic time or the process's end."""
        delay, longest = RETRY_SECONDS
        while True:
            try:
                return await work()
            except Exception as error:
                if not is_unavailable(error) or self._flights.draining or time.monotonic() > until:
                    raise
                if not isinstance(error, HeldError):
                    self._database.outage.failed(error)
            await asyncio.sleep(delay)
            delay = min(delay * 2, longest)

    async def _prepare(self, flight: Flight, row: Row[Any]) -> Prepared:
        kind, model = KINDS[row.kind], catalog()[row.model]
        images: Sequence[ImageBytes] = ()
        timeout: float = row.timeout_seconds
        if model.image is not None:
            began = time.monotonic()
            images = await self._input_images(flight, row, model.image)
            timeout -= time.monotonic() - began
        request = kind.to_request(row.input, images)
        driver = self._drivers.get(model)
        return Prepared(
            project_id=row.project_id,
            kind=row.kind,
            stored=row.input,
            model=model,
            request=request,
            driver=driver,
            timeout=timeout,
            account=Account(model, driver.provider, estimate(model, request, datetime.now(UTC))),
            gated=row.gated,
            live=self._deltas.open(row.id, row.attempt, row.timeout_seconds + RECORD_GRACE_SECONDS)
            if row.stream
            else None,
        )

    async def _input_images(
        self, flight: Flight, row: Row[Any], can: ImageCapabilities
    ) -> Sequence[ImageBytes]:
        """The pictures that the job came with, ready to be shown to the model.

        Raises:
            ProviderError: one of them cannot be had or used.
            _CalledOff: a cancel or a rescue came meanwhile.
        """
        stored, urls = await self._load_inputs(row.id), row.input.get(INPUT_URLS, {})
        if not stored and not urls:
            return ()
        if flight.cancelled or flight.fenced:
            raise _CalledOff
        flight.call = asyncio.create_task(self._inputs.ready(stored, urls, can, row.timeout_seconds * SHARE))
        try:
            return await flight.call
        except asyncio.CancelledError:
            if flight.cancelled or flight.fenced:
                raise _CalledOff from None
            raise
        finally:
            flight.call = None

    async def _load_inputs(self, job_id: UUID) -> dict[int, ImageBytes]:
        """The pictures whose bytes are in the database, by their position."""
        async with self._recorder.picture_transaction() as db:
            return {
                image.position: ImageBytes(
                    await (
                        storage.read_upload(db, image.upload_id)
                        if image.upload_id
                        else storage.read_all(db, image.id)
                    ),
                    image.media_type,
                    image.width or 0,
                    image.height or 0,
                )
                for image in await artifacts.inputs(db, job_id)
            }

    async def _may_call(self, flight: Flight, estimate: Decimal) -> bool:
        """Notes that the call goes out. False: it must not, because the job is called off or no longer ours."""
        if time.monotonic() < flight.noted_until:
            return not (flight.cancelled or flight.fenced)
        note = {"job_id": flight.job.job_id, "number": flight.job.number, "estimate": estimate}
        if await self._patiently(lambda: self._notes(note), until=flight.deadline):
            return True
        # Why not? Where the lease merely ran out (this process slept), it is ours again by now.
        await self._flights.renew([flight])
        if flight.cancelled or flight.fenced:
            return False
        return await self._patiently(lambda: self._notes(note), until=flight.deadline)

    async def _give_back(self, flight: Flight) -> str:
        """The provider was not called."""
        if flight.cancelled:
            return await self._recorder.record(
                flight, outcomes.after_cancel(flight.job, Served(), provider_called=False)
            )
        return NOT_OURS

    async def _call(self, flight: Flight, prepared: Prepared) -> tuple[dict[str, Any], Sequence[ImageBytes]]:
        """Calls the provider; answers how the attempt ends and the pictures that came."""
        live = prepared.live
        on_text = live.add if live is not None else None
        call = Call(flight.job.job_id, flight.job.number, prepared.model, prepared.timeout, on_text)
        flight.call = asyncio.create_task(self._generate(prepared, call))
        try:
            if flight.cancelled or flight.fenced:
                flight.call.cancel()
            generation = await flight.call
        except asyncio.CancelledError:
            if not (flight.cancelled or flight.fenced):
                raise
            served = prepared.account.of_aborted_call()
            return outcomes.after_cancel(flight.job, served, provider_called=True), ()
        except ProviderError as error:
            # First the gate, then the job: it must not be released through a gate that is still open.
            await self._gates.went_wrong(
                prepared.model, error, patience=prepared.timeout, gated=prepared.gated
            )
            return outcomes.after_error(
                flight.job, error, prepared.account.of_error(error), self._backoff
            ), ()
        finally:
            flight.call = None
        if live is not None and not prepared.driver.streams and generation.text:
            live.add(generation.text)
        await self._gates.answered(prepared.model.alias, gated=prepared.gated)
        return await self._ending(flight.job, prepared, generation)

    async def _generate(self, prepared: Prepared, call: Call) -> Generation:
        try:
            async with asyncio.timeout(prepared.timeout + _DRIVER_GRACE_SECONDS):
                return await prepared.driver.generate(prepared.request, call)
        except TimeoutError:
            raise UnknownOutcomeError("The provider did not answer in time.", code="timeout") from None
        except ProviderError:
            raise
        except Exception as error:
            # A driver's bug: whether the provider billed the call, nobody knows.
            log.exception("attempt %d: the driver failed", call.attempt)
            raise UnknownOutcomeError(
                f"The driver failed ({type(error).__name__}).", code="internal_error"
            ) from None

    async def _ending(
        self, job: Claimed, prepared: Prepared, generation: Generation
    ) -> tuple[dict[str, Any], Sequence[ImageBytes]]:
        """The row of a success; of a failure where nothing can be made of the answer (JSON a thousand levels deep).

        Whatever goes wrong here must end the job: it has been paid for, and would be paid for again.
        """
        served = prepared.account.of_aborted_call()
        try:
            served = prepared.account.of_answer(generation)
            # Some megabytes take long enough to hash that other jobs would notice.
            digests = await asyncio.to_thread(_digests, generation.images) if generation.images else []
            stored = [
                StoredImage(uuid7(), image.media_type, len(image.data), digest, image.width, image.height)
                for image, digest in zip(generation.images, digests, strict=True)
            ]
            result = outcomes.clean(KINDS[prepared.kind].result(prepared.stored, generation, stored))
        except Exception as error:
            log.exception("attempt %d: nothing can be made of the answer", job.number)
            return outcomes.not_storable(outcomes.succeeded(job, {}, served), type(error).__name__), ()
        return outcomes.succeeded(job, result, served), generation.images

    async def _claim_batch(self, ids: Sequence[UUID]) -> Sequence[Row[Any] | Left | Exception | None]:
        """For each its row; else whether it may be had yet."""
        unique = list(dict.fromkeys(ids))
        claimed, left = await claims.claim(
            self._database.direct,
            unique,
            worker=self._name,
            lease=self._settings.lease_seconds,
            grace=RECORD_GRACE_SECONDS,
            noted=_NOTED_BY_CLAIM,
        )
        self._wakeups.changed_soon([(row.project_id, row.id) for row in claimed.values()])
        # Of two messages for one job in one batch, the first gets it.
        if isinstance(left, Exception):
            return [claimed.pop(job_id, left) for job_id in ids]
        return [claimed.pop(job_id, left.get(job_id)) for job_id in ids]

    async def _claim_gated_batch(self, ids: Sequence[UUID]) -> Sequence[Row[Any] | None]:
        unique = list(dict.fromkeys(ids))
        async with self._database.transaction() as db:
            claimed = await claims.claim_through_gates(
                db,
                unique,
                worker=self._name,
                lease=self._settings.lease_seconds,
                grace=RECORD_GRACE_SECONDS,
                noted=_NOTED_BY_CLAIM,
            )
        self._wakeups.changed_soon([(row.project_id, row.id) for row in claimed.values()])
        return [claimed.pop(job_id, None) for job_id in ids]

    async def _note_batch(self, rows: Sequence[dict[str, Any]]) -> Sequence[bool | HeldError]:
        db = self._database.direct
        sent = await queries.mark_sent(db, rows)
        left = [(row["job_id"], row["number"]) for row in rows if row["job_id"] not in sent]
        may_call = await queries.present(db, left) if left else {}
        return [HeldError() if may_call.get(row["job_id"], False) else row["job_id"] in sent for row in rows]


def _looks() -> Iterator[float]:
    """How long to wait, in seconds, between looks for a job whose message may be ahead of it."""
    wait, longest = _LOOK_SECONDS
    until = time.monotonic() + AHEAD_SECONDS
    yield 0.0
    while time.monotonic() < until:
        yield wait
        wait = min(wait * 2, longest)


def _age(job_id: UUID) -> float:
    """Seconds since a job was made, as its id says by the clock of who made it."""
    made: float = (job_id.int >> 80) / 1000  # RFC 9562, version 7: it begins with milliseconds since 1970
    return time.time() - made


def _digests(images: Sequence[ImageBytes]) -> list[str]:
    return [sha256(image.data).hexdigest() for image in images]
