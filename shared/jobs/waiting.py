"""Why queued jobs wait, where they stand, and when they will probably start.

No poll has a statement of its own for it: what all polls share is read at most once a second, and only while somebody
polls queued jobs. See ``docs/decisions/0018-outlook.md``.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextvars import Context

from shared.coalesce import SingleFlight
from shared.config import Settings
from shared.db import Database, is_unavailable
from shared.jobs import backlog
from shared.jobs.outlook import SETTLED, Backlog, Outlook, Progress, Spread, Workers, served
from shared.jobs.queries import JobRow
from shared.jobs.status import State, WaitingReason
from shared.workers import queries as workers

log = logging.getLogger(__name__)

#: How long the answer to "is any worker alive?" is believed.
_WORKERS_CACHE_SECONDS = 2.0
#: The backlog is read at most so often, and takes a twentieth of one connection at most.
_LOOK_SECONDS = 1.0
_SHARE = 20
#: What is older than this, or than two looks, is not told.
_STALE_SECONDS = 5.0
#: A poll waits no longer for it.
_WAIT_SECONDS = 0.5
#: How often it is asked how long attempts take of late: while queued jobs are polled, and while only running ones are.
_RECENT_SECONDS = 3.0
_RECENT_IDLE_SECONDS = 60.0

_ITS_OWN_TIME = frozenset({WaitingReason.SCHEDULED, WaitingReason.RETRY_BACKOFF})
_NEVER = float("-inf")


class Waiting:
    """One a process."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        #: Beyond the statement timeout: only a server that hangs takes longer.
        self._patience = settings.database_statement_timeout + 1
        self._workers: tuple[float, tuple[Workers, ...], frozenset[str]] = (_NEVER, (), frozenset())
        self._ask_workers: SingleFlight[None, None] = SingleFlight(self._read_workers)
        self._backlog: Backlog | None = None
        #: How long attempts take, by model and by queue; what has not been seen of late keeps its last value.
        self._seconds: dict[str, Spread] = {}
        self._seconds_at = _NEVER
        self._looking: asyncio.Task[None] | None = None
        self._next_look = _NEVER
        self._stale_after = _STALE_SECONDS

    async def outlook(self, row: JobRow) -> Outlook:
        """What can be said of a job now."""
        if row.state == State.QUEUED:
            reason = self._known_reason(row) or await self.reason_in(row.queue)
            return self._of_queued(row, reason, await self._current())
        if row.state == State.RUNNING:
            return self._of_running(row)
        return SETTLED

    async def first_outlook(self, row: JobRow) -> Outlook:
        """Likewise of a job that was just submitted: what is known without asking."""
        return self.of_new(row, self._known_reason(row) or await self.reason_in(row.queue))

    def of_new(self, row: JobRow, reason: WaitingReason) -> Outlook:
        """Likewise, where it is known already why a job in this queue waits."""
        if row.waiting_reason:
            reason = WaitingReason(row.waiting_reason)
        return self._of_queued(row, reason, self._fresh())

    async def reason(self, row: JobRow) -> WaitingReason | None:
        """Why a queued job waits; None where it is not queued."""
        if row.state != State.QUEUED:
            return None
        return self._known_reason(row) or await self.reason_in(row.queue)

    async def reason_in(self, queue: str) -> WaitingReason:
        """Why a job that nothing holds back waits in this queue: whether any live worker takes from it.

        Where nobody can be asked about workers it is taken to be in the queue: a submit is stored by now.
        """
        try:
            served = queue in await self._live_queues()
        except Exception as error:
            if not is_unavailable(error):
                raise
            self._database.outage.failed(error)
            served = True
        return _reason(served)

    async def close(self) -> None:
        """Waits for what is under way: a connection cut off in the middle stays open at the server."""
        if self._looking is not None:
            await asyncio.wait({self._looking}, timeout=self._patience)

    def _known_reason(self, row: JobRow) -> WaitingReason | None:
        """Why a queued job waits, where nobody need be asked: nearly always."""
        if row.waiting_reason:
            return WaitingReason(row.waiting_reason)
        asked, _, served = self._workers
        if time.monotonic() - asked > _WORKERS_CACHE_SECONDS:
            return None
        return _reason(row.queue in served)

    def _of_queued(self, row: JobRow, reason: WaitingReason, known: Backlog | None) -> Outlook:
        if known is None:
            return Outlook(reason)
        age = time.monotonic() - known.taken
        if row.waiting_until is not None:
            # Behind a gate it is not its own time that counts, and nobody knows how many the gate will let through.
            if reason not in _ITS_OWN_TIME:
                return Outlook(reason)
            return Outlook(reason, start=known.start_later(row.queue, row.waiting_until, age))
        if row.published_at is None:
            return Outlook(reason)
        position = known.position(row.queue, row.published_at)
        wait = known.wait(row.queue, position) if reason == WaitingReason.IN_QUEUE else None
        if wait is None:
            return Outlook(reason, position)
        return Outlook(reason, position, known.start(wait, age), None, (wait[0] - age) / 2)

    def _of_running(self, row: JobRow) -> Outlook:
        if time.monotonic() - self._seconds_at > _RECENT_IDLE_SECONDS:
            self._look(queues=False)
        typical = backlog.by_model(self._seconds, row.model)
        if typical is None or row.elapsed is None:
            return SETTLED
        return Outlook(
            progress=Progress(row.elapsed, typical.p50, typical.p90),
            look_after=(typical.p50 - row.elapsed) / 2,
        )

    def _fresh(self) -> Backlog | None:
        known = self._backlog
        return known if known is not None and time.monotonic() - known.taken < self._stale_after else None

    async def _current(self) -> Backlog | None:
        """The backlog as it was a moment ago; None where it cannot be read."""
        if time.monotonic() >= self._next_look:
            self._look(queues=True)
        known = self._fresh()
        if known is None and self._looking is not None:
            await asyncio.wait({self._looking}, timeout=_WAIT_SECONDS)
            known = self._fresh()
        return known

    def _look(self, *, queues: bool) -> None:
        """Begins to read, unless that is under way."""
        if self._looking is None:
            self._looking = asyncio.create_task(self._read(queues=queues), context=Context())

    async def _read(self, *, queues: bool) -> None:
        began = time.monotonic()
        try:
            await self._read_recent()
            if queues:
                await self._read_backlog()
        except Exception as error:
            if is_unavailable(error):
                self._database.outage.failed(error)
            else:
                log.exception("what waits could not be read")
        finally:
            pause = max(_LOOK_SECONDS, _SHARE * (time.monotonic() - began))
            self._stale_after = max(_STALE_SECONDS, 2 * pause)
            self._next_look = began + pause
            self._looking = None

    async def _read_recent(self) -> None:
        if time.monotonic() - self._seconds_at < _RECENT_SECONDS:
            return
        async with self._database.reading() as db:
            self._seconds |= await backlog.recent(db)
        self._seconds_at = time.monotonic()

    async def _read_backlog(self) -> None:
        await self._live_queues()
        async with self._database.reading() as db:
            found = await backlog.read(db)
        queues = served(
            found.waiting, found.running, self._workers[1], backlog.by_queue(self._seconds), found.now
        )
        self._backlog = Backlog(found.now, time.monotonic(), queues)

    async def _live_queues(self) -> frozenset[str]:
        """The queues that at least one live worker takes jobs from."""
        if time.monotonic() - self._workers[0] > _WORKERS_CACHE_SECONDS:
            async with asyncio.timeout(self._patience):
                await self._ask_workers(None)
        return self._workers[2]

    async def _read_workers(self, _: None) -> None:
        async with self._database.reading() as db:
            found = tuple(Workers(frozenset(row.queues), row.slots) for row in await workers.groups(db))
        self._workers = (time.monotonic(), found, frozenset().union(*(group.queues for group in found)))


def _reason(served: bool) -> WaitingReason:
    return WaitingReason.IN_QUEUE if served else WaitingReason.NO_WORKERS
