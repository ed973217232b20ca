"""While a worker cannot renew its leases, it objects to its attempts' being taken for lost.

Beat cannot tell from its own statements whether workers can write: most of those change nothing, and on a full disk
some writes find room while others do not. Taken back, a call under way would be made, and paid for, a second time.

The objection is a lock in PostgreSQL's memory, which needs no disk. It ends with its connection: that of a worker
that dies at once, that of one that stands still after ``idle_in_transaction_session_timeout``. A worker that does not
reach the database cannot object, and others get its jobs.
"""

from __future__ import annotations

import asyncio
import logging

from shared.config import Settings
from shared.db import Database, is_unavailable, within
from shared.jobs import queries
from worker.flights import Flights

log = logging.getLogger(__name__)

#: Between looks, and between signs of life to the server: well below its timeout for idle transactions.
_TICK_SECONDS = 1.0
#: A statement that touches no table takes longer only where the server, or the way to it, hangs.
_STEP_SECONDS = 2.0


class Objection:
    """One background task a process."""

    def __init__(self, database: Database, settings: Settings, flights: Flights, owner: str) -> None:
        self._database = database
        self._flights = flights
        self._owner = owner
        # A renewal that is late by half its interval: leases live for two intervals at least.
        self._after = 1.5 * settings.lease_renew_seconds
        self._tick = min(_TICK_SECONDS, settings.lease_renew_seconds / 4)

    async def keep(self) -> None:
        """Objects whenever there is a reason to, for ever."""
        while True:
            await asyncio.sleep(self._tick)
            while self._needed:
                await self._try()

    @property
    def _needed(self) -> bool:
        # Renewals that get no answer at all are not refused: their connections lead nowhere, and this process ends.
        return self._flights.overdue > self._after and not self._flights.abandoned

    async def _try(self) -> None:
        try:
            await self._hold()
        except Exception as error:
            if is_unavailable(error):
                self._database.outage.failed(error)
            else:
                log.exception("no objection could be made; trying again")
            await asyncio.sleep(self._tick)

    async def _hold(self) -> None:
        """On a connection of its own: what holds up renewals may be a lack of those in the pools."""
        async with self._database.direct.apart() as db:
            await within(_STEP_SECONDS, queries.object_to_rescue(db, self._owner))
            log.warning(
                "leases have not been renewed for %.1f s; beat is told not to take this worker for lost",
                self._flights.overdue,
            )
            while self._needed:
                await asyncio.sleep(self._tick)
                await within(_STEP_SECONDS, queries.object_to_rescue(db, self._owner))
        log.warning("leases are renewed again, or are needed no longer")
