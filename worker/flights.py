"""The attempts that this process has in the air, and the leases that keep them its own."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from shared.config import Settings
from shared.db import Database, is_unavailable
from shared.jobs import queries
from shared.jobs.outcomes import Claimed
from shared.workers import queries as workers
from worker.hearing import SILENCE_SECONDS, Hearing

log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class Flight:
    """One attempt, from its claim to its record."""

    job: Claimed
    model: str
    #: Monotonic time after which nothing may be recorded any more.
    deadline: float
    #: Monotonic time of the claim.
    started: float = field(default_factory=time.monotonic)
    #: Monotonic time of the last renewal, or of the claim, which is the first.
    renewed: float = field(default_factory=time.monotonic)
    #: Monotonic time until which its claim holds as the note that it is sent; later, or without one, a note is written.
    noted_until: float = 0.0
    #: The provider call, while it is under way.
    call: asyncio.Task[object] | None = None
    #: The client called it off.
    cancelled: bool = False
    #: Another attempt, or a rescue, has taken over: nothing may be written.
    fenced: bool = False

    def stop(self, *, fenced: bool = False) -> None:
        """Aborts the provider call, if it is under way."""
        self.fenced = self.fenced or fenced
        self.cancelled = self.cancelled or not fenced
        if self.call is not None:
            self.call.cancel()


class Flights:
    """Keeps leases alive and this worker's name known; one background task a process."""

    def __init__(self, database: Database, settings: Settings, name: str, queues: Iterable[str]) -> None:
        self._database = database
        self._settings = settings
        self._name = name
        self._queues = list(queues)
        self._all: set[Flight] = set()
        self._started = time.monotonic()
        self._went_round = time.monotonic()
        self.hearing = Hearing(settings)
        #: The process is shutting down: it takes nothing more and ends what it has.
        self.draining = False

    def __len__(self) -> int:
        return len(self._all)

    def add(self, flight: Flight) -> None:
        self._all.add(flight)

    def remove(self, flight: Flight) -> None:
        self._all.discard(flight)

    async def keep(self) -> None:
        """Renews every few seconds, for ever."""
        while True:
            started = time.monotonic()
            # Leases first: without them, what runs here is called a second time elsewhere.
            await self._try(self.renew(self._all), "leases could not be renewed")
            await self._try(self._beat(), "the heartbeat could not be written")
            self._touch(self._settings.heartbeat_file)
            self._went_round = time.monotonic()
            await asyncio.sleep(max(0.0, self._settings.lease_renew_seconds - (time.monotonic() - started)))

    @property
    def abandoned(self) -> bool:
        """Whether nothing was renewed, nor failed to be, for so long that every lease has run out."""
        standstill = time.monotonic() - self._went_round
        return standstill > max(SILENCE_SECONDS, self._settings.lease_seconds)

    @property
    def overdue(self) -> float:
        """For how long, in seconds, a lease that is needed has not been renewed."""
        now = time.monotonic()
        return max((now - flight.renewed for flight in self._all if now < flight.deadline), default=0.0)

    async def renew(self, flights: Iterable[Flight]) -> None:
        """Extends the leases of these attempts and stops those that are called off or taken over."""
        held = list(flights)
        if not held:
            return
        asked = time.monotonic()
        alive = await queries.renew(
            self._database.direct,
            [(f.job.job_id, f.job.number) for f in held],
            lease=self._settings.lease_seconds,
        )
        for flight in held:
            if flight not in self._all:
                continue  # it ended meanwhile, which is why it was not found
            renewal = alive.get(flight.job.job_id)
            if renewal is None:
                log.warning(
                    "job %s attempt %d is no longer ours: stopping it", flight.job.job_id, flight.job.number
                )
                flight.stop(fenced=True)
                continue
            if renewal.extended:
                flight.renewed = asked
            if renewal.cancel:
                flight.stop()

    async def wake(self, job_id: UUID) -> None:
        """A cancel was asked for: if the job is ours, look now rather than at the next renewal."""
        mine = [flight for flight in self._all if flight.job.job_id == job_id]
        if mine:
            await self.renew(mine)

    async def say_goodbye(self) -> None:
        async with self._database.transaction() as db:
            await workers.say_goodbye(db, self._name)

    async def _try(self, work: Awaitable[None], failed: str) -> None:
        """One step of ``keep``, which no error may end."""
        try:
            await work
        except Exception as error:
            if is_unavailable(error):
                self._database.outage.failed(error)
            else:
                log.exception("%s; trying again", failed)

    async def _beat(self) -> None:
        async with self._database.transaction() as db:
            await workers.heartbeat(
                db,
                self._name,
                queues=[] if self.draining else self._queues,
                concurrency=self._settings.worker_concurrency,
                in_flight=len(self._all),
                uptime=time.monotonic() - self._started,
            )

    def _touch(self, path: Path | None) -> None:
        silence = self.hearing.silence
        # A consumer that was told to stop is silent, and a long call may well take minutes to end.
        if silence > SILENCE_SECONDS and not self.draining:
            log.warning(
                "the consumer has been silent for %.0f s: the broker is away, or this worker is deaf", silence
            )
        elif path is not None:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
            except OSError as error:
                log.warning("the heartbeat file could not be written: %s", error)
