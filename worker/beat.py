"""Beat's scheduler: it runs the maintenance itself, on PostgreSQL, instead of sending messages about it.

So maintenance never waits behind busy workers, piles up in no queue, and goes on while Redis is
away. Two beats at once do no harm: see ``docs/decisions/0004-beat-runs-maintenance.md``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from celery.beat import ScheduleEntry, Scheduler
from celery.utils.log import get_logger
from kombu.exceptions import KombuError
from redis.exceptions import RedisError

from shared.config import Settings, get_settings
from shared.db import Database, is_unavailable
from shared.outage import reason
from shared.queue import Doorbell
from shared.wakeups import Wakeups
from worker.loop import LoopThread
from worker.maintenance import Maintenance
from worker.webhooks.dispatcher import Dispatcher

log = get_logger(__name__)

#: Each pass and how often it runs, in seconds.
SCHEDULE: dict[str, float] = {
    "dispatch_due": 0.5,
    "rescue": 2.0,
    "republish": 5.0,
    "expire": 2.0,
    "tend_batches": 1.0,
    "forget_batches": 600.0,
    "tend_gates": 5.0,
    "forget_workers": 600.0,
    "prune": 2.0,
    "prune_uploads": 15.0,
    "count_ended": 2.0,
    "copy_prompts": 10.0,
    "audit_totals": 600.0,
}
#: A pass that takes longer is given up; the next one goes on where it stopped.
_PASS_TIMEOUT = 60.0


class MaintenanceScheduler(Scheduler):
    """Runs each due entry in this process."""

    #: Beat would connect to the broker for it before each entry, and wait for ever while it is away.
    producer = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._running: Running | None = None
        super().__init__(*args, **kwargs)

    def setup_schedule(self) -> None:
        self._seconds = _schedule(get_settings())
        self._due = dict.fromkeys(self._seconds, time.monotonic())
        self.merge_inplace({name: {"task": name, "schedule": each} for name, each in self._seconds.items()})

    def tick(self, **_: Any) -> float:
        """Runs what is due; answers how long there is nothing to do, in seconds.

        Celery's own asks the wall clock: set back by an hour, it would have beat do nothing for that hour.
        """
        for name in sorted(self._due, key=self._due.__getitem__):
            if self._due[name] <= time.monotonic():
                self._due[name] = time.monotonic() + self._seconds[name]
                self.apply_entry(self.schedule[name])
        rest: float = max(0.0, min(self._due.values()) - time.monotonic())
        return min(rest, float(self.max_interval))

    def apply_entry(self, entry: ScheduleEntry, producer: Any = None) -> None:  # noqa: ARG002
        if self._running is None:
            self._running = Running(get_settings())
        self._running.run(entry.name)

    def close(self) -> None:
        super().close()
        # Beat closes its scheduler twice: when the signal comes and when it ends.
        running, self._running = self._running, None
        if running is not None:
            running.close()


class Running:
    """The loop and connections that the passes need; webhooks are sent beside them, on the same loop."""

    def __init__(self, settings: Settings) -> None:
        self._loop = LoopThread("maintenance")
        self._heartbeat = settings.heartbeat_file
        self._patience = 2 * settings.lease_renew_seconds
        self._rescue_after = float("-inf")
        self._loop.run(self._open(settings))

    def run(self, name: str) -> None:
        """Runs one pass and reports; an error is logged, and the next pass tries again."""
        started = time.monotonic()
        # While the database was away nobody could renew: whoever is alive gets the time to do so first,
        # or to store an answer that was held back. Otherwise the call would be made, and paid for, again.
        if name == "rescue" and started < self._rescue_after:
            return
        try:
            done = self._loop.run(self._timed(name))
        except Exception as error:  # noqa: BLE001  reported, whatever it is: beat goes on
            self._report(name, error)
        else:
            if done:
                log.info("%s: %d jobs in %.2f s", name, done, time.monotonic() - started)
        # Beat is well as long as it goes round, whatever the database does.
        if self._heartbeat is not None:
            try:
                self._heartbeat.parent.mkdir(parents=True, exist_ok=True)
                self._heartbeat.touch()
            except OSError as error:
                log.warning("the heartbeat file could not be written: %s", error)

    def _report(self, name: str, error: Exception) -> None:
        if is_unavailable(error):
            if name != "republish":  # which fails for the broker's sake, too
                self._rescue_after = time.monotonic() + self._patience
            self._database.outage.failed(error)
        elif isinstance(error, RedisError | KombuError | OSError):
            log.warning("%s: the broker is away (%s); trying again", name, reason(error))
        else:
            log.error("%s failed; trying again", name, exc_info=error)

    def close(self) -> None:
        self._loop.run(self._close())
        self._loop.stop()

    async def _open(self, settings: Settings) -> None:
        self._database = Database(settings, application="plantain beat")
        self._doorbell = Doorbell(settings)
        self._wakeups = Wakeups(settings)
        self._webhooks = Dispatcher(self._database, settings, self._wakeups)
        self._webhooks.start()
        maintenance = Maintenance(self._database, settings, self._doorbell, self._wakeups)
        self._passes: dict[str, Callable[[], Awaitable[int]]] = {
            "dispatch_due": maintenance.dispatch_due,
            "rescue": maintenance.rescue,
            "republish": maintenance.republish,
            "expire": maintenance.expire,
            "tend_batches": maintenance.tend_batches,
            "forget_batches": maintenance.forget_batches,
            "tend_gates": maintenance.tend_gates,
            "forget_workers": maintenance.forget_workers,
            "prune": maintenance.prune,
            "prune_uploads": maintenance.prune_uploads,
            "count_ended": maintenance.count_ended,
            "copy_prompts": maintenance.copy_prompts,
            "audit_totals": maintenance.audit_totals,
        }

    async def _timed(self, name: str) -> int:
        async with asyncio.timeout(_PASS_TIMEOUT):
            return await self._passes[name]()

    async def _close(self) -> None:
        await self._webhooks.close()
        await self._doorbell.close()
        await self._wakeups.close()
        await self._database.close()


def _schedule(settings: Settings) -> dict[str, float]:
    """Where leases or republishing are set shorter, their passes come more often."""
    rescue, republish = settings.lease_seconds / 4, settings.republish_after_seconds / 3
    return SCHEDULE | {
        "rescue": min(SCHEDULE["rescue"], rescue),
        "republish": min(SCHEDULE["republish"], republish),
    }
