"""How many calls a gate lets through now: pure arithmetic over one row, tested without a database."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

#: A recovering model that has come to this many calls at once is open again.
RECOVERED_AT = 64
#: How much later than another a call may arrive at its provider: the minute that is filled is this much longer.
_WAY_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Gate:
    """A row of ``model_gates``, with the database's clock and the number of calls under way."""

    model: str
    now: datetime
    running: int
    rpm: int | None = None
    learned_rpm: int | None = None
    max_in_flight: int | None = None
    paused_until: datetime | None = None
    reason: str = "rate_limited"
    allowance: int | None = None
    next_slot_at: datetime | None = None

    @property
    def calls_per_minute(self) -> int | None:
        """The stricter of what is configured and what the provider said."""
        known = [limit for limit in (self.rpm, self.learned_rpm) if limit is not None]
        return min(known) if known else None


@dataclass(frozen=True, slots=True)
class Admission:
    """How many calls may begin, and when a next one may (None: when one of those under way ends)."""

    calls: int
    next_slot_at: datetime | None
    opens_at: datetime | None


def admit(gate: Gate, wanted: int) -> Admission:
    """Lets through as many of the wanted calls as every limit allows; never fewer than none."""
    if gate.paused_until is not None and gate.paused_until > gate.now:
        return Admission(0, gate.next_slot_at, gate.paused_until)
    calls = wanted
    for most in (gate.allowance, gate.max_in_flight):
        if most is not None:
            calls = min(calls, most - gate.running)
    calls = max(calls, 0)
    if gate.calls_per_minute is None:
        return Admission(calls, None, None)
    return _paced(gate, calls, gate.calls_per_minute)


def _paced(gate: Gate, calls: int, per_minute: int) -> Admission:
    """Calls spread over the minute, so that no window of a minute, wherever it begins, holds too many.

    A short burst (three seconds' worth) is let through at once, so that looking only now and then
    loses no slot; it is taken off the rate.
    """
    burst = max(1, min(max(2, per_minute // 20), per_minute - 1))
    interval = timedelta(seconds=(60 + _WAY_SECONDS) / max(per_minute - burst, 1))
    earliest = gate.now - interval * (burst - 1)
    slot = max(gate.next_slot_at or earliest, earliest)
    free = 0 if slot > gate.now else int((gate.now - slot) / interval) + 1
    taken = min(calls, free)
    slot += interval * taken
    return Admission(taken, slot, slot if slot > gate.now else None)
