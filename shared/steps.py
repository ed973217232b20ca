"""Long work in short steps on the event loop, so that other requests hardly notice it.

A thread would not do: Python lets it keep the interpreter for 5 ms each time that anybody else wants it, so every
step of every other request would wait for that.
"""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import ClassVar, Self

#: Work in one piece, and the pause after it, in seconds: others get several turns in one.
_WORK = 0.003
_REST = 0.001


class Steps:
    """Tells work that it has gone on for long enough: ``if steps.due: await steps.rest()``.

    Those that work at the same time, each in a ``with`` block, share the time of one.
    """

    __slots__ = ("_until",)
    _working: ClassVar[int] = 0

    def __init__(self) -> None:
        self._until = perf_counter() + _WORK

    def __enter__(self) -> Self:
        Steps._working += 1
        return self

    def __exit__(self, *_: object) -> None:
        Steps._working -= 1

    @property
    def due(self) -> bool:
        return perf_counter() > self._until

    async def rest(self) -> None:
        await asyncio.sleep(_REST)
        self._until = perf_counter() + _WORK / max(1, Steps._working)
