"""What must hold of jobs and gates, in plain Python: written from the design's words, not from the SQL.

Time is whole seconds since the beginning. It stands still while transitions happen and moves on only in steps of
``UNIT``, so long that the real milliseconds in between decide nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from uuid import UUID

from shared.jobs.outcomes import Claimed

UNIT = 1000
#: The backoff here: nothing after the first try, and then long.
BACKOFF = (0, UNIT)
#: A limit of one or three calls a minute: one each sixty seconds, and with three a burst of two.
_SLOT, _BURST = 60, {1: 1, 3: 2}
_URGENCY = ("interactive", "standard", "batch")


@dataclass
class Attempt:
    """One claim."""

    worker: str
    sent: bool = False
    estimate: Decimal = Decimal(0)
    outcome: str | None = None
    counted: bool = True
    answered: bool = False
    cost: Decimal = Decimal(0)


@dataclass
class Job:
    """One job; ``order`` is its place in the sequence of submits."""

    id: UUID
    order: int
    model: str
    priority: str
    queue: str
    max_attempts: int
    on_unknown: str
    timeout: int
    scheduled: int
    expires: int | None
    published: int | None
    reason: str | None
    state: str = "queued"
    snoozes: int = 0
    cancel: bool = False
    lease: int | None = None
    deadline: int = 0
    attempts: list[Attempt] = field(default_factory=list)
    events: list[str] = field(default_factory=lambda: ["job.queued"])

    @property
    def used(self) -> int:
        return len(self.attempts) - self.snoozes

    @property
    def cost(self) -> Decimal:
        return sum((attempt.cost for attempt in self.attempts), Decimal(0))

    def move(self, state: str, event: str) -> None:
        self.state = state
        self.events.append(event)
        self.published = self.reason = self.lease = None


@dataclass
class Gate:
    """A row of ``model_gates``."""

    rpm: int | None = None
    learned: int | None = None
    learned_at: int = 0
    in_flight: int | None = None
    paused: int | None = None
    reason: str = "rate_limited"
    pauses: int = 0
    allowance: int | None = None
    slot: int | None = None


@dataclass(frozen=True)
class End:
    """How a worker ends an attempt; ``delay`` is what a provider that limits the rate asks for."""

    kind: str
    cost: Decimal = Decimal(0)
    delay: int = 0


#: Kind of ending → (outcome, the provider answered). What follows is decided in ``World.finish``.
ENDS = {
    "success": ("succeeded", True),
    "not_storable": ("failed", True),
    "retryable": ("failed", False),
    "retryable_answered": ("failed", True),
    "rate_limited": ("failed", True),
    "permanent": ("failed", True),
    "unknown": ("unknown", False),
    "cancelled": ("cancelled", False),
    "cancelled_unsent": ("cancelled", False),
    "given_back": ("lost", False),
    "lost": ("lost", False),
}


class World:
    """All jobs and gates. A method does what one transaction does, and answers what that must answer."""

    def __init__(self, noted_estimate: Decimal) -> None:
        #: What a call that was noted with its claim is thought to have cost, for every job here.
        self.noted_estimate = noted_estimate
        self.now = 0
        self.jobs: dict[UUID, Job] = {}
        self.gates: dict[str, Gate] = {}

    def submit(self, job: Job) -> None:
        if job.scheduled > self.now:
            job.reason = "scheduled"
        else:
            job.published = self.now
        self.jobs[job.id] = job

    # ---- Claims

    def claim(
        self, ids: Iterable[UUID], worker: str, lease: int, grace: int, *, noted: bool = False
    ) -> set[UUID]:
        """``noted``: those whose policy allows it count as sent from their claim on."""
        asked = {job_id: self.jobs[job_id] for job_id in ids}
        claimed = self.claim_ungated(asked, worker, lease, grace)
        for model, gate in sorted(self.gates.items()):
            waiting = self._by_urgency(
                job
                for job in asked.values()
                if job.model == model and job.state == "queued" and job.scheduled <= self.now
            )
            calls, opens = self._admit(gate, model, len(waiting))
            for job in waiting[:calls]:
                if self._may_run(job):
                    self._start(job, worker, lease, grace)
                    claimed.add(job.id)
            self._take_slots(gate, calls)
            for job in waiting[calls:]:
                self._park(job, gate, opens)
        for job in (asked[job_id] for job_id in claimed) if noted else ():
            if job.queue.startswith("text.") and job.on_unknown == "retry":
                job.attempts[-1].sent, job.attempts[-1].estimate = True, self.noted_estimate
        return claimed

    def claim_ungated(self, ids: Iterable[UUID], worker: str, lease: int, grace: int) -> set[UUID]:
        claimed = {
            job_id
            for job_id in ids
            if self._may_run(self.jobs[job_id]) and self.jobs[job_id].model not in self.gates
        }
        for job_id in claimed:
            self._start(self.jobs[job_id], worker, lease, grace)
        return claimed

    def _may_run(self, job: Job) -> bool:
        fresh = job.expires is None or job.expires > self.now
        return job.state == "queued" and job.scheduled <= self.now and fresh and job.used < job.max_attempts

    def _start(self, job: Job, worker: str, lease: int, grace: int) -> None:
        job.move("running", "job.running")
        job.attempts.append(Attempt(worker))
        job.deadline = self.now + job.timeout + grace
        job.lease = min(self.now + lease, job.deadline)

    def _park(self, job: Job, gate: Gate, opens: int | None) -> None:
        job.published = None
        job.scheduled = max(job.scheduled, opens or 0)
        by_provider = gate.allowance is not None or (gate.paused or 0) > self.now
        job.reason = gate.reason if by_provider else "rate_limited"

    @staticmethod
    def _by_urgency(jobs: Iterable[Job]) -> list[Job]:
        return sorted(jobs, key=lambda job: (_URGENCY.index(job.priority), job.used, job.order))

    # ---- Gates

    def _admit(self, gate: Gate, model: str, wanted: int) -> tuple[int, int | None]:
        """How many of the wanted calls may begin, and where none may, from when on (None: when one ends)."""
        if gate.paused is not None and gate.paused > self.now:
            return 0, gate.paused
        running = sum(job.state == "running" and job.model == model for job in self.jobs.values())
        for most in (gate.allowance, gate.in_flight):
            if most is not None:
                wanted = min(wanted, max(0, most - running))
        first, free = self._slots(gate)
        calls = min(wanted, free)
        after = first + calls * _SLOT
        return calls, after if self._limit(gate) is not None and after > self.now else None

    def _slots(self, gate: Gate) -> tuple[int, int]:
        """The first free slot's time and how many are free now."""
        limit = self._limit(gate)
        if limit is None:
            return 0, 10**6
        earliest = self.now - _SLOT * (_BURST[limit] - 1)
        first = earliest if gate.slot is None else max(gate.slot, earliest)
        return first, 0 if first > self.now else (self.now - first) // _SLOT + 1

    def _take_slots(self, gate: Gate, calls: int) -> None:
        if calls:
            limited = self._limit(gate) is not None
            gate.slot = self._slots(gate)[0] + calls * _SLOT if limited else None

    @staticmethod
    def _limit(gate: Gate) -> int | None:
        return min((limit for limit in (gate.rpm, gate.learned) if limit is not None), default=None)

    def pause(self, model: str, seconds: int, longest: int | None, reason: str, learned: int | None) -> int:
        """``longest`` is None where the provider named the time."""
        gate = self.gates.get(model)
        if gate is None:
            gate = self.gates[model] = Gate(paused=self.now + seconds, pauses=1)
        else:
            if longest is not None:
                seconds = min(seconds * 2**gate.pauses, longest)
            gate.pauses += (gate.paused or 0) <= self.now
            gate.paused = max(gate.paused or 0, self.now + seconds)
        gate.reason, gate.allowance = reason, 1
        if learned is not None:
            gate.learned, gate.learned_at = learned, self.now
        assert gate.paused is not None
        return gate.paused

    def recover(self, model: str) -> None:
        gate = self.gates.get(model)
        if gate is None or gate.allowance is None or (gate.paused or 0) > self.now:
            return
        gate.allowance = gate.allowance * 2 if gate.allowance * 2 < 64 else None
        if gate.allowance is None:
            gate.pauses = 0

    def configure(self, limits: dict[str, tuple[int | None, int | None]]) -> None:
        for model in {*limits, *self.gates}:
            gate = self.gates.setdefault(model, Gate())
            gate.rpm, gate.in_flight = limits.get(model, (None, None))

    def forget_gates(self, after: int) -> None:
        for model, gate in list(self.gates.items()):
            if self.now - gate.learned_at >= after:
                gate.learned = None
            holds = (gate.rpm, gate.in_flight, gate.learned, gate.allowance)
            if not any(holds) and (gate.paused or 0) <= self.now:
                del self.gates[model]

    # ---- What workers write

    def mark_sent(self, job_id: UUID, number: int, estimate: Decimal) -> bool:
        job = self.jobs[job_id]
        if not self._is_at(job, number) or job.cancel or (job.lease or 0) <= self.now:
            return False
        job.attempts[-1].sent, job.attempts[-1].estimate = True, estimate
        return True

    def renew(self, job_id: UUID, number: int, lease: int) -> bool | None:
        """Whether a cancel is asked for; None: no longer this attempt's."""
        job = self.jobs[job_id]
        if not self._is_at(job, number):
            return None
        job.lease = max(job.lease or 0, min(self.now + lease, job.deadline))
        return job.cancel

    def look(self, job_id: UUID, number: int) -> bool | None:
        """A renewal that passed over the job, because somebody else had it locked."""
        job = self.jobs[job_id]
        return job.cancel if self._is_at(job, number) else None

    @staticmethod
    def _is_at(job: Job, number: int) -> bool:
        return job.state == "running" and len(job.attempts) == number

    def finish(self, claimed: Claimed, end: End) -> tuple[int, str] | None:
        """The job's version and state afterwards; None: fenced out."""
        job = self.jobs[claimed.job_id]
        if not self._is_at(job, claimed.number):
            return None
        attempt = job.attempts[-1]
        attempt.outcome, attempt.answered = ENDS[end.kind]
        attempt.sent = attempt.sent or attempt.answered or attempt.outcome == "unknown"
        if end.kind in {"given_back", "cancelled_unsent"}:
            attempt.sent = False
        attempt.cost = Decimal(0) if end.kind == "given_back" else end.cost
        attempt.counted = end.kind not in {"rate_limited", "given_back"}
        job.snoozes += not attempt.counted
        self._after(job, end)
        return len(job.events), job.state

    def _after(self, job: Job, end: End) -> None:
        final = {
            "success": "succeeded",
            "not_storable": "failed",
            "permanent": "failed",
            "cancelled": "cancelled",
            "cancelled_unsent": "cancelled",
        }
        again = end.kind in {"rate_limited", "given_back"} or job.used < job.max_attempts
        if end.kind == "unknown" and job.on_unknown == "fail":
            again = False
        state = final.get(end.kind) or ("queued" if again else "failed")
        if state != "queued":
            job.move(state, f"job.{state}")
        elif job.cancel:
            job.move("cancelled", "job.cancelled")
        else:
            job.move("queued", "job.retry_scheduled")
            job.reason = "rate_limited" if end.kind == "rate_limited" else "retry_backoff"
            waits = BACKOFF[job.used > 1]
            if end.kind in {"lost", "rate_limited"}:
                waits = end.delay
            elif end.kind == "given_back":
                waits = 0
            job.scheduled = self.now + waits

    # ---- What clients and maintenance do

    def cancel(self, job_id: UUID) -> str | None:
        """The state afterwards; None: nothing to cancel, or asked before."""
        job = self.jobs[job_id]
        if job.state not in {"queued", "running"} or job.cancel:
            return None
        job.cancel = True
        if job.state == "queued":
            job.move("cancelled", "job.cancelled")
        else:
            job.events.append("job.cancel_requested")
        return job.state

    def expire(self, but: UUID | None = None) -> int:
        """``but`` is skipped: somebody else has it locked."""
        due = [
            job
            for job in self.jobs.values()
            if job.state == "queued" and job.expires is not None and job.expires <= self.now and job.id != but
        ]
        for job in due:
            job.move("expired", "job.expired")
        return len(due)

    def rescue(self, but: UUID | None = None) -> int:
        lost = [
            job
            for job in self.jobs.values()
            if job.state == "running" and (job.lease or 0) <= self.now and job.id != but
        ]
        for job in lost:
            attempt = job.attempts[-1]
            claimed = Claimed(
                job.id, len(job.attempts), job.snoozes, job.max_attempts, on_unknown=job.on_unknown
            )
            kind = "cancelled" if job.cancel else "unknown" if attempt.sent else "lost"
            self.finish(claimed, End(kind, attempt.estimate if attempt.sent else Decimal(0)))
        return len(lost)

    def dispatch(self, *, refused: bool) -> int:
        """How many messages were sent; a broker that refuses them leaves the jobs untold."""
        told: list[Job] = []
        for model, gate in self.gates.items():
            calls, _ = self._admit(gate, model, 500)
            waiting = [job for job in self._queued() if job.model == model]
            calls -= sum(job.published is not None for job in waiting)
            told += self._by_urgency(job for job in waiting if self._is_due(job))[: max(calls, 0)]
        told += [job for job in self._queued() if job.model not in self.gates and self._is_due(job)]
        for job in told:
            job.published = None if refused else self.now
        return 0 if refused else len(told)

    def republish(self, after: int, *, missing: bool) -> int:
        """``missing``: the broker has no message at all; otherwise it has all of them."""
        stale = [
            job for job in self._queued() if job.published is not None and self.now - job.published >= after
        ]
        for job in stale if missing else []:
            job.published = self.now
        return len(stale) if missing else 0

    def _queued(self) -> list[Job]:
        return [job for job in self.jobs.values() if job.state == "queued"]

    def _is_due(self, job: Job) -> bool:
        return job.published is None and job.scheduled <= self.now


#: Something that a transaction does to the world, and what it answers.
Move = Callable[[World], object]


def close(expected: int | None, actual: float | None, now: int) -> bool:
    """Whether a time of the database (seconds from its present) is the model's, but for what the test itself took."""
    if expected is None or actual is None:
        return expected is actual
    return math.isclose(expected - now, actual, abs_tol=_SLOT / 2)


def orders(moves: Sequence[Sequence[Move]]) -> Iterable[Sequence[Move]]:
    """Every order of the moves; each is given as the variants that it may turn out as."""
    if not moves:
        yield ()
    for at, variants in enumerate(moves):
        rest = [*moves[:at], *moves[at + 1 :]]
        for variant in variants:
            for others in orders(rest):
                yield (variant, *others)
