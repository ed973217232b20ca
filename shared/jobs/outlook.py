"""When a queued job will probably start, and how far a running one is: arithmetic, tested without a database.

Workers take the messages of one queue in the order in which they were published. Every queue of a higher priority comes
first; the other kind's queue of the same priority takes turns. A slot is held for as long as an attempt takes, so with
``slots`` busy slots and attempts of ``seconds`` each, ``slots / seconds`` jobs start in a second (Little's law, which holds
as well where the workers' CPU is what is short: then attempts take longer).
"""

from __future__ import annotations

import math
import sys
from array import array
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from shared.jobs.status import WaitingReason
from shared.queue import ALL_QUEUES, PRIORITIES

#: Messages of one queue that are counted; what waits behind them is told that, and no estimate.
COUNTED = 100_000
#: Where slots are free and a message has still waited for so long, no worker hears of it: nothing can be foretold.
_STALLED_SECONDS = 10.0

#: Lower numbers first.
_RANKS = {queue: PRIORITIES.index(queue.rpartition(".")[2]) for queue in ALL_QUEUES}
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Spread(NamedTuple):
    """How long attempts take, seconds."""

    mean: float
    p50: float
    p90: float


class Start(NamedTuple):
    """When a queued job will have started: as likely as not, and in nine cases of ten."""

    p50: datetime
    p90: datetime


class Progress(NamedTuple):
    """How long the present attempt has taken, and how long those of its model take; seconds."""

    elapsed: float
    p50: float
    p90: float


class Outlook(NamedTuple):
    """What can be said of a job that is not final; nothing at all of one that is."""

    reason: WaitingReason | None = None
    #: In its queue: 1 is the next; None where it is in none (its time has not come, or a gate holds it back).
    position: int | None = None
    start: Start | None = None
    progress: Progress | None = None
    #: Seconds after which looking again makes sense; None: soon.
    look_after: float | None = None


SETTLED = Outlook()


@dataclass(frozen=True, slots=True)
class Served:
    """What live workers do for one queue."""

    #: When each of its messages was published, in order: microseconds since 2000, as PostgreSQL has them.
    waiting: array[int]
    #: Jobs that its workers can run at once, and those of them that could begin now.
    slots: int
    free: int
    #: Attempts in this queue.
    seconds: Spread
    #: Jobs in more urgent queues of the same workers, and the seconds that all of them together take a slot.
    urgent: int
    urgent_seconds: float
    urgent_seconds_p90: float
    #: Likewise in queues of the same priority, which take turns with this one.
    rivals: int
    rival: Spread
    #: Slots are free and nobody takes what waits.
    stalled: bool

    def wait(self, before: int) -> tuple[float, float] | None:
        """Seconds until a job starts that has so many before it in its queue: p50 and p90."""
        if self.stalled or not self.slots:
            return None
        rivals = min(before, self.rivals)
        ahead = before + self.urgent + rivals
        ends = ahead - self.free + 1
        if ends <= 0:
            return 0.0, 0.0
        jobs = max(ahead, 1)
        own = before if ahead else 1
        mean = (own * self.seconds.mean + self.urgent_seconds + rivals * self.rival.mean) / jobs
        long = (own * self.seconds.p90 + self.urgent_seconds_p90 + rivals * self.rival.p90) / jobs
        # p90: as if each took as long as nine in ten do at most, and slots came free only all together.
        p50 = ends * mean / self.slots
        return p50, max(p50, math.ceil(ends / self.slots) * long)


@dataclass(frozen=True, slots=True)
class Backlog:
    """All queues as they were at one moment."""

    #: The database's clock, and this process's monotonic one.
    now: datetime
    taken: float
    queues: Mapping[str, Served]

    def position(self, queue: str, published_at: datetime) -> int:
        """1 is the next. Jobs that were published together share one."""
        found = self.queues.get(queue)
        return 1 if found is None else bisect_left(found.waiting, microseconds(published_at)) + 1

    def wait(self, queue: str, position: int) -> tuple[float, float] | None:
        """Seconds from the moment of the backlog until the job at this position starts: p50 and p90."""
        found = self.queues.get(queue)
        return found.wait(position - 1) if found is not None and position <= COUNTED else None

    def start(self, wait: tuple[float, float], age: float) -> Start:
        """When a job starts that has so long to wait; ``age``: seconds since the backlog was read."""
        p50, p90 = wait
        first = self.now + timedelta(0, max(age, p50))
        return Start(first, first if p90 <= p50 else self.now + timedelta(0, max(age, p90)))

    def start_later(self, queue: str, due: datetime, age: float) -> Start | None:
        """When a job starts that joins the queue at a time to come: behind what is left of today's, or as much again."""
        found = self.queues.get(queue)
        wait = self.wait(queue, len(found.waiting) + 1) if found is not None else None
        if wait is None:
            return None
        present = self.now + timedelta(0, age)
        return Start(max(due, self.now + timedelta(0, wait[0])), max(due, present) + timedelta(0, wait[1]))


class Workers(NamedTuple):
    """Live workers that take jobs from the same queues."""

    queues: frozenset[str]
    slots: int


def served(
    waiting: Mapping[str, array[int]],
    running: Mapping[str, int],
    workers: Sequence[Workers],
    seconds: Mapping[str, Spread],
    now: datetime,
) -> dict[str, Served]:
    """What each queue's jobs have to wait for, by queue."""
    return {queue: _served(queue, waiting, running, workers, seconds, now) for queue in ALL_QUEUES}


def _served(
    queue: str,
    waiting: Mapping[str, array[int]],
    running: Mapping[str, int],
    workers: Sequence[Workers],
    seconds: Mapping[str, Spread],
    now: datetime,
) -> Served:
    mine = [group for group in workers if queue in group.queues]
    slots = sum(group.slots for group in mine)
    shared = {name for group in mine for name in group.queues}
    rank = _RANKS[queue]
    urgent = [name for name in ALL_QUEUES if name in shared and _RANKS[name] < rank]
    rivals = [name for name in ALL_QUEUES if name in shared and _RANKS[name] == rank and name != queue]
    free = max(slots - sum(running.get(name, 0) for name in shared), 0)
    oldest = min((waiting[name][0] for name in (queue, *urgent) if waiting[name]), default=None)
    return Served(
        waiting=waiting[queue],
        slots=slots,
        free=free,
        seconds=seconds[queue],
        urgent=sum(len(waiting[name]) for name in urgent),
        urgent_seconds=sum(len(waiting[name]) * seconds[name].mean for name in urgent),
        urgent_seconds_p90=sum(len(waiting[name]) * seconds[name].p90 for name in urgent),
        rivals=sum(len(waiting[name]) for name in rivals),
        rival=seconds[rivals[0]] if rivals else seconds[queue],
        stalled=free > 0 and oldest is not None and (microseconds(now) - oldest) / 1e6 > _STALLED_SECONDS,
    )


def microseconds(moment: datetime) -> int:
    """Since 2000, as PostgreSQL counts."""
    return (moment - _EPOCH) // _MICROSECOND


def moments(data: bytes) -> array[int]:
    """Big-endian numbers of eight bytes each, as PostgreSQL sends times."""
    found = array("q", data)
    if sys.byteorder == "little":
        found.byteswap()
    return found
