"""How much of requests' bodies may be in memory at once, over all connections."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from shared.errors import Unavailable

#: How long a request waits for room before it is sent away. It is not read meanwhile: its client waits too.
WAIT_SECONDS = 5.0
_RETRY_SECONDS = 5


class Budget:
    """So many bytes; whoever needs some takes a ``room``."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.taken = 0
        self._freed = asyncio.Condition()

    def room(self) -> Room:
        return Room(self)

    async def take(self, size: int) -> None:
        """Raises: TimeoutError: others hold too much, and go on doing so."""
        async with asyncio.timeout(WAIT_SECONDS), self._freed:
            # What is larger than everything gets in alone.
            await self._freed.wait_for(lambda: not self.taken or self.taken + size <= self.size)
            self.taken += size

    async def give_back(self, size: int) -> None:
        self.taken -= size
        async with self._freed:
            self._freed.notify_all()


class Room:
    """What one request holds of a budget, until the end of its ``async with`` block."""

    __slots__ = ("_budget", "held")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.held = 0

    async def take(self, size: int) -> None:
        """Takes this many bytes; once.

        Raises:
            Unavailable: there is no room, and there was none for some seconds.
        """
        try:
            await self._budget.take(size)
        except TimeoutError:
            raise Unavailable(
                "Too many large requests are under way. Nothing was stored; try again.",
                code="overloaded",
                retry_after=_RETRY_SECONDS,
                headers={"Connection": "close"},
            ) from None
        self.held = size

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.held:
            await self._budget.give_back(self.held)
