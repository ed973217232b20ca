"""How many deliveries may be under way, to each address and in all, pure.

A lane is an endpoint, or the origin of jobs' own addresses. One that is slow fills its own room and nobody else's; one
that fails is tried with a single delivery at a time until it answers well again, so that even many of them leave the
room of all to others; one that asks to be left alone (429, 503 with Retry-After) is, by all its deliveries.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any
from uuid import UUID

Lane = tuple[UUID, str]

#: Under way at once: to one address, and in all.
AT_ONCE = 8
IN_ALL = 128
#: A lane is left alone for so long at most; its deliveries that were told to wait longer do so themselves.
_LONGEST_PAUSE = 300.0
#: Lanes that nothing is under way to are remembered for their failures: so many at most.
_REMEMBERED = 5000


@dataclass(slots=True)
class _State:
    under_way: int = 0
    failing: bool = False
    closed_until: float = float("-inf")

    def room(self, now: float) -> int:
        if now < self.closed_until:
            return 0
        return max(0, (1 if self.failing else AT_ONCE) - self.under_way)

    @property
    def ordinary(self) -> bool:
        return not self.under_way and not self.failing and self.closed_until < time.monotonic()


class Lanes:
    """What one process knows; another one has its own."""

    def __init__(self) -> None:
        self._lanes: dict[Lane, _State] = {}
        self.under_way = 0

    @property
    def room(self) -> int:
        """For deliveries in all."""
        return IN_ALL - self.under_way

    def rooms(self) -> list[dict[str, Any]]:
        """The lanes with another room than ``AT_ONCE``, as ``sending.claim`` takes them."""
        now = time.monotonic()
        return [
            {"endpoint_id": endpoint_id, "lane": lane, "room": state.room(now)}
            for (endpoint_id, lane), state in self._lanes.items()
        ]

    def begin(self, lane: Lane) -> None:
        self._lanes.setdefault(lane, _State()).under_way += 1
        self.under_way += 1

    def end(self, lane: Lane, *, ok: bool, pause: float | None) -> None:
        """One is no longer under way.

        Args:
            pause: seconds for which the receiver wants to be left alone.
        """
        state = self._lanes[lane]
        state.under_way -= 1
        self.under_way -= 1
        state.failing = not ok
        if pause:
            state.closed_until = time.monotonic() + min(pause, _LONGEST_PAUSE)
        if state.ordinary:
            del self._lanes[lane]
        elif len(self._lanes) > _REMEMBERED:
            self._lanes = {key: each for key, each in self._lanes.items() if each.under_way}
