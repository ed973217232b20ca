"""Cancelling what is left of a batch: begun by a request, finished by beat if need be."""

from __future__ import annotations

import time
from dataclasses import dataclass
from uuid import UUID

from shared.batches import queries
from shared.db import Database
from shared.jobs import queries as jobs
from shared.jobs.status import State
from shared.wakeups import Wakeups

#: Jobs that are cancelled in one transaction.
_JOBS_AT_ONCE = 200


@dataclass(slots=True)
class Found:
    """What a cancel found and did."""

    cancelled: int = 0
    cancel_requested: int = 0
    more: bool = False


class Canceller:
    """Cancels batches that are noted as to be cancelled, a few hundred jobs in each transaction."""

    def __init__(self, database: Database, wakeups: Wakeups) -> None:
        self._database = database
        self._wakeups = wakeups

    async def cancel(self, project_id: UUID, batch_id: UUID, *, seconds: float) -> Found:
        """Cancels jobs until none is left that nobody has locked, or for so long."""
        found, ends_at = Found(), time.monotonic() + seconds
        while True:
            async with self._database.transaction() as db:
                ids = await queries.to_cancel(db, batch_id, limit=_JOBS_AT_ONCE)
                changed = await jobs.cancel_free(db, project_id, ids) if ids else []
            self._wakeups.changed([(project_id, row.id) for row in changed])
            running = [row.id for row in changed if row.state == State.RUNNING]
            await self._wakeups.cancels_requested(running)
            found.cancel_requested += len(running)
            found.cancelled += len(changed) - len(running)
            found.more = len(changed) < len(ids)
            if len(ids) < _JOBS_AT_ONCE or not changed:
                return found
            if time.monotonic() > ends_at:
                found.more = True
                return found
