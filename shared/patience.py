"""A limit on how long something takes, for what is done all the time, one after the other, and nearly always in time."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any


class Patience:
    """``with patience:`` ends in ``TimeoutError`` after so many seconds, as a block of ``asyncio.timeout`` does.

    Its timer is not set and called off for each block, which costs a lone poll a fortieth: it runs on, and finds out whether
    there still is one that it was set for. Blocks must not overlap.
    """

    __slots__ = ("_cancelling", "_late", "_loop", "_seconds", "_task", "_timer", "_until")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._timer: asyncio.TimerHandle | None = None
        #: Of the block that is under way.
        self._task: asyncio.Task[Any] | None = None
        self._until = 0.0
        #: How often its task had been cancelled when it began, and whether the timer did so since.
        self._cancelling = 0
        self._late = False

    def __enter__(self) -> None:
        assert self._task is None, "one block at a time"
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        assert self._task is not None
        self._cancelling, self._late = self._task.cancelling(), False
        self._until = self._loop.time() + self._seconds
        if self._timer is None:
            self._timer = self._loop.call_at(self._until, self._look)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        if not self._late or task is None:
            return
        # Somebody else may have cancelled it, too, before or after: then that holds.
        if task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError(f"no answer within {self._seconds:g} s") from error

    def _look(self) -> None:
        self._timer = None
        if self._task is None:
            return  # the next block sets it again
        if self._loop.time() < self._until:
            self._timer = self._loop.call_at(self._until, self._look)
        else:
            self._late = True
            self._task.cancel()
