"""Why queued jobs wait."""

from __future__ import annotations

import asyncio
import time

from shared.coalesce import SingleFlight
from shared.config import Settings
from shared.db import Database, is_unavailable
from shared.jobs.queries import JobRow
from shared.jobs.status import State, WaitingReason
from shared.workers import queries as workers

#: How long the answer to "is any worker alive?" is believed.
_WORKERS_CACHE_SECONDS = 2.0


class Waiting:
    """One a process."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        #: Beyond the statement timeout: only a server that hangs takes longer.
        self._patience = settings.database_statement_timeout + 1
        self._live_queues: tuple[float, frozenset[str]] = (float("-inf"), frozenset())
        self._ask_live_queues: SingleFlight[None, frozenset[str]] = SingleFlight(self._read_live_queues)

    async def reason(self, row: JobRow) -> WaitingReason | None:
        """Why a queued job waits: what is stored, else whether any worker takes from its queue.

        Where nobody can be asked about workers it is taken to be in the queue: a submit is stored by now.
        """
        if row.state != State.QUEUED:
            return None
        if row.waiting_reason:
            return WaitingReason(row.waiting_reason)
        return await self.reason_in(row.queue)

    async def reason_in(self, queue: str) -> WaitingReason:
        """Why a job that nothing holds back waits in this queue; see ``reason``."""
        try:
            served = queue in await self.live_queues()
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
            queues = frozenset(await workers.alive(db))
        self._live_queues = (time.monotonic(), queues)
        return queues
