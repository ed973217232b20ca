"""What keeps jobs moving when messages, workers or clients don't: run by beat, safe to run twice at once."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.artifacts import queries as artifacts
from shared.batches import queries as batches
from shared.batches.cancel import Canceller
from shared.config import Settings
from shared.db import Database
from shared.gates import queries as gates
from shared.idempotency import queries as idempotency
from shared.idempotency.claim import KEPT_SECONDS
from shared.jobs import claims, counting, outcomes, queries, retention, search
from shared.jobs.outcomes import Backoff, Claimed, Served
from shared.queue import Doorbell
from shared.uploads import queries as uploads
from shared.wakeups import Wakeups
from shared.webhooks import sending as webhooks
from shared.workers import queries as workers
from worker.accounts import expected_cost

log = logging.getLogger(__name__)

_BATCH = 500
#: Messages sent again in one run at most, for each queue.
_REPUBLISH_AT_MOST = 5000
#: A limit that a provider named is kept for so long after it last did so.
_FORGET_LEARNED_SECONDS = 3600.0
#: A worker that says nothing for so long does not come back under its name: one that crashed leaves its row behind.
_FORGET_WORKER_SECONDS = 86_400.0
#: Batches that one statement notes as completed at most: each of their jobs is counted.
_COMPLETE_BATCH = 20
#: A pass cancels jobs of batches for so long at most, in seconds.
_CANCEL_SECONDS = 2.0
#: A batch outlives its last job by so much, in seconds, for those who still ask.
_FORGET_BATCH_SECONDS = 7 * 86_400.0
#: Rows that one transaction deletes at most: it is over in some hundredths of a second.
_PRUNE_BATCH = 200
_PRUNE_PICTURES = 20
#: A pass of pruning begins no further batch after so long: beat has other things to do.
_PRUNE_SECONDS = 0.3
#: Likewise of adding up days: there are many after an upgrade.
_ADD_UP_SECONDS = 0.5


class Maintenance:
    """Each method is one bounded pass; rows that another process works on are skipped."""

    def __init__(self, database: Database, settings: Settings, doorbell: Doorbell, wakeups: Wakeups) -> None:
        self._database = database
        self._wakeups = wakeups
        self._settings = settings
        self._doorbell = doorbell
        self._canceller = Canceller(database, wakeups)
        self._backoff = Backoff(settings.retry_base_seconds, settings.retry_cap_seconds)
        #: Whose jobs are not taken for lost, and until when (monotonic).
        self._spared: dict[int, float] = {}

    async def dispatch_due(self) -> int:
        """Rings for jobs whose time has come: scheduled ones, retries, and those never published."""
        total = 0
        if self._doorbell.resting:  # marking jobs and taking the mark back is work for nothing
            return total
        async with self._database.transaction() as db:
            released = await claims.release(db)
        if released:
            total += await self._ring(released)
        while True:
            async with self._database.transaction() as db:
                due = await queries.dispatch_due(db, limit=_BATCH)
            sent = await self._ring(due)
            total += sent
            if sent < len(due) or len(due) < _BATCH:
                return total

    async def tend_gates(self) -> int:
        """Sets the configured limits of models, and drops gates that hold nothing back."""
        async with self._database.transaction() as db:
            await gates.configure(db, self._settings.limits_of_models)
            await gates.remove_open(db, forget_after=_FORGET_LEARNED_SECONDS)
        return 0

    async def forget_workers(self) -> int:
        """Drops the rows of workers that nobody has heard of for a day."""
        async with self._database.transaction() as db:
            await workers.forget(db, after=_FORGET_WORKER_SECONDS, limit=_BATCH)
        return 0

    async def rescue(self) -> int:
        """Takes jobs back from workers whose lease ran out and who do not object."""
        spared = await self._spare()
        total = 0
        while True:
            async with self._database.transaction() as db:
                lost = await queries.lock_lost(db, limit=_BATCH, spared=spared)
                finished = await queries.finish(db, [self._ending(row) for row in lost]) if lost else {}
            self._wakeups.changed([(row.project_id, row.id) for row in finished.values()])
            for row in lost:
                what = "called the provider" if row.sent else "not called the provider"
                log.warning(
                    "job %s: worker %s was lost in attempt %d, having %s",
                    row.job_id,
                    row.lease_owner,
                    row.number,
                    what,
                )
            total += len(lost)
            if len(lost) < _BATCH:
                return total

    async def _spare(self) -> list[int]:
        """Who objects, or did so a moment ago: an objection ends with its connection, too, and is soon made again."""
        async with self._database.reading() as db:
            objecting = await queries.objections(db)
        now = time.monotonic()
        if fresh := [key for key in objecting if key not in self._spared]:
            log.warning(
                "%d workers cannot renew their leases: their attempts are not taken for lost", len(fresh)
            )
        self._spared |= dict.fromkeys(objecting, now + 2 * self._settings.lease_renew_seconds)
        self._spared = {key: until for key, until in self._spared.items() if until > now}
        return list(self._spared)

    async def republish(self) -> int:
        """Rings again for jobs whose message was lost: as many as the broker is short of.

        A long backlog whose messages all lie in the broker is healthy, and nothing is sent for it.
        """
        after = self._settings.republish_after_seconds
        async with self._database.transaction() as db:
            queues = await queries.stale_queues(db, after=after)
        stale = {queue: (waiting, old) for queue, waiting, old in queues if old}
        if not stale:
            return 0
        depths = await self._doorbell.depths(list(stale))
        total = 0
        for queue, (waiting, old) in stale.items():
            missing = min(waiting - depths[queue], old, _REPUBLISH_AT_MOST)
            if missing > 0:
                total += await self._republish(queue, missing, after)
        return total

    async def expire(self) -> int:
        """Ends queued jobs that nobody started in time."""
        total = 0
        while True:
            async with self._database.transaction() as db:
                expired = await queries.expire(db, limit=_BATCH)
            self._wakeups.changed([(row.project_id, row.id) for row in expired])
            total += len(expired)
            if len(expired) < _BATCH:
                return total

    async def tend_batches(self) -> int:
        """Goes on with the cancel of batches, and notes which have come to their end."""
        async with self._database.reading() as db:
            called_off = await batches.called_off(db)
        end = time.monotonic() + _CANCEL_SECONDS
        for project_id, batch_id in called_off:
            left = end - time.monotonic()
            if left > 0:
                await self._canceller.cancel(project_id, batch_id, seconds=left)
        while True:
            async with self._database.transaction() as db:
                completed = await batches.complete(db, limit=_COMPLETE_BATCH)
            self._wakeups.changed(completed)
            if len(completed) < _COMPLETE_BATCH:
                return 0

    async def forget_batches(self) -> int:
        """Deletes batches that have no jobs left."""
        async with self._database.transaction() as db:
            await batches.prune(db, after=_FORGET_BATCH_SECONDS, limit=_BATCH)
        return 0

    async def prune(self) -> int:
        """Deletes jobs, idempotency keys and deliveries of webhooks that were kept for their time.

        What one pass leaves, the next one takes.
        """
        end = time.monotonic() + _PRUNE_SECONDS
        await self._prune_keys(end)
        await self._prune_deliveries(end)
        return await self._prune_jobs(end)

    async def prune_uploads(self) -> int:
        """Deletes uploads that were kept for their time and are used by no job, and those that were never completed."""
        end = time.monotonic() + _PRUNE_SECONDS
        while True:
            async with self._database.transaction() as db:
                done = await uploads.prune(db, limit=_PRUNE_PICTURES)
            if done < _PRUNE_PICTURES or time.monotonic() > end:
                return 0

    async def _prune_keys(self, end: float) -> None:
        while True:
            async with self._database.transaction() as db:
                done = await idempotency.prune(db, after=KEPT_SECONDS, limit=_PRUNE_BATCH)
            if done < _PRUNE_BATCH or time.monotonic() > end:
                return

    async def _prune_deliveries(self, end: float) -> None:
        after = self._settings.webhook_retention_days * 86_400
        while True:
            async with self._database.transaction() as db:
                done = (
                    await webhooks.purge(db, limit=_PRUNE_BATCH),
                    await webhooks.end_disabled(db, limit=_PRUNE_BATCH),
                    await webhooks.prune(db, after=after, limit=_PRUNE_BATCH),
                )
            if max(done) < _PRUNE_BATCH or time.monotonic() > end:
                return

    async def _prune_jobs(self, end: float) -> int:
        total = 0
        while True:
            async with self._database.transaction() as db:
                due = await retention.due(db, limit=_PRUNE_BATCH)
            if not due or not await self._prune_bytes(due, end):
                return total
            async with self._database.transaction() as db:
                total += await retention.prune(db, due)
            if len(due) < _PRUNE_BATCH or time.monotonic() > end:
                return total

    async def _prune_bytes(self, jobs: list[UUID], end: float) -> bool:
        """Whether none are left. Apart from their jobs: a large picture is thousands of rows to delete."""
        while True:
            async with self._database.transaction() as db:
                done = await artifacts.delete_bytes(db, jobs, limit=_PRUNE_PICTURES)
            if done < _PRUNE_PICTURES:
                return True
            if time.monotonic() > end:
                return False

    async def count_ended(self) -> int:
        """Counts jobs that have ended for the summary, and adds up days that are over."""
        await self._whole(counting.count)
        end = time.monotonic() + _ADD_UP_SECONDS
        while time.monotonic() < end:
            async with self._database.transaction() as db:
                if not await counting.add_up(db):
                    break
        return 0

    async def copy_prompts(self) -> int:
        """Copies prompts to where they are searched."""
        return await self._whole(lambda db: counting.copy_prompts(db, chars=search.PROMPT_CHARS))

    async def _whole(self, step: Callable[[AsyncConnection], Awaitable[int]]) -> int:
        """Repeats a step, each in a transaction of its own, until little is left; answers nothing worth a line."""
        while True:
            async with self._database.transaction() as db:
                if await step(db) < counting.BATCH:
                    return 0

    async def audit_totals(self) -> int:
        """Counts the last hours again: a number that was too low is corrected, and said."""
        async with self._database.transaction() as db:
            corrected = await counting.audit(db)
        for row in corrected:
            log.error(
                "%s jobs of %s (%s) were counted too low in the hour %s",
                row.state,
                row.model,
                row.kind,
                row.hour,
            )
        return 0

    async def _ring(self, jobs: list[tuple[UUID, str]]) -> int:
        unsent = await self._doorbell.ring(jobs)
        if unsent:
            async with self._database.transaction() as db:
                await queries.unpublish(db, unsent)
        return len(jobs) - len(unsent)

    async def _republish(self, queue: str, missing: int, after: float) -> int:
        async with self._database.transaction() as db:
            jobs = await queries.republish(db, queue, after=after, limit=missing)
        unsent = await self._doorbell.ring(jobs)
        log.warning("%s: %d messages were missing and were sent again", queue, len(jobs) - len(unsent))
        return len(jobs) - len(unsent)

    def _ending(self, row: Row[Any]) -> dict[str, Any]:
        job = Claimed(row.job_id, row.number, row.snoozes, row.max_attempts, row.on_unknown)
        expected = expected_cost(row) if row.sent else Decimal(0)
        served = Served(cost=expected, estimate=expected if row.sent else None)
        if row.cancel:
            return outcomes.after_cancel(job, served, provider_called=row.sent)
        return outcomes.after_loss(job, served, sent=row.sent, backoff=self._backoff)
