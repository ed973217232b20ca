"""How many deliveries may be under way, to each address and in all, pure.

A lane is an endpoint, or one of a project's for the origins of its jobs' own addresses. One that is slow fills its own
room and nobody else's. One that nothing has arrived at lately is tried with a single delivery at a time, and all such
lanes together have half of the room: however many hang, the other half is for those that answer. One that asks to be
left alone (429, 503 with Retry-After) is, by all its deliveries.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any
from uuid import UUID

Lane = tuple[UUID, str]

#: Under way at once: to one address that answers well, to one that does not or is new, and in all.
AT_ONCE, AT_FIRST, IN_ALL = 8, 1, 128
#: Of those in all, so many to addresses that do not answer well or are new.
UNPROVEN = 64
#: A lane is left alone for so long at most; its deliveries that were told to wait longer do so themselves.
_LONGEST_PAUSE = 300.0
#: Lanes that nothing is under way to are remembered: so many at most. Each claim names them.
_REMEMBERED = 2000


@dataclass(slots=True)
class _State:
    under_way: int = 0
    well: bool = False
    closed_until: float = float("-inf")

    def room(self, now: float) -> int:
        if now < self.closed_until:
            return 0
        return max(0, (AT_ONCE if self.well else AT_FIRST) - self.under_way)

    @property
    def unknown(self) -> bool:
        """Whether it is as if nothing had ever been sent there."""
        return not self.under_way and not self.well and self.closed_until < time.monotonic()


class Lanes:
    """What one process knows; another one has its own."""

    def __init__(self) -> None:
        self._lanes: dict[Lane, _State] = {}
        self.under_way = 0

    @property
    def room(self) -> int:
        """For deliveries in all."""
        return IN_ALL - self.under_way

    @property
    def room_for_unproven(self) -> int:
        """For deliveries to lanes that do not answer well or are new."""
        return UNPROVEN - sum(state.under_way for state in self._lanes.values() if not state.well)

    def rooms(self) -> list[dict[str, Any]]:
        """The lanes of which something is known, as ``sending.claim`` takes them; others have room for ``AT_FIRST``."""
        now = time.monotonic()
        return [
            {
                "endpoint_id": endpoint_id,
                "lane": lane,
                "room": state.room(now),
                "busy": state.under_way,
                "well": state.well,
            }
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
        state.well = ok
        if pause:
            state.closed_until = time.monotonic() + min(pause, _LONGEST_PAUSE)
        if state.unknown:
            del self._lanes[lane]
        elif len(self._lanes) > _REMEMBERED:
            self._lanes = {key: each for key, each in self._lanes.items() if each.under_way}
