"""How one description of each operation serves a blocking and an asyncio client.

An operation is a generator: it yields what it needs done (an effect), and is sent the answer, or has the failure thrown
into it. Only ``sync.py`` and ``aio.py`` do anything; all that is worth testing twice is written once.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import httpx

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Request:
    """A request without its server and its key.

    Attributes:
        headers: their names in small letters.
        read_timeout: seconds without a byte of an answer; None: the client's own.
    """

    method: str
    path: str
    query: Sequence[tuple[str, str]] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = field(default=None, repr=False)
    read_timeout: float | None = None

    def with_headers(self, **headers: str | None) -> Request:
        """With these headers (``last_event_id`` is ``last-event-id``); None takes one away."""
        found: dict[str, str | None] = {**self.headers}
        found |= {name.replace("_", "-"): value for name, value in headers.items()}
        kept = {name: value for name, value in found.items() if value is not None}
        return replace(self, headers=kept)


@dataclass(slots=True)
class Opened:
    """An answer whose body is read piece by piece."""

    response: httpx.Response
    chunks: Iterator[bytes] | AsyncIterator[bytes]


@dataclass(frozen=True, slots=True)
class Send:
    """Answered with the whole ``httpx.Response``."""

    request: Request


@dataclass(frozen=True, slots=True)
class Open:
    """Answered with ``Opened``; the body of one that is no success has been read. The one before is let go of."""

    request: Request


@dataclass(frozen=True, slots=True)
class Read:
    """Answered with some bytes, or None at the end."""

    opened: Opened


@dataclass(frozen=True, slots=True)
class Pause:
    """Sleeps; an answer that was open is let go of."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Emit:
    """Gives the caller an item."""

    value: Any


Effect = Send | Open | Read | Pause | Emit
Steps = Generator[Effect, Any, T]


class Script(Generic[T]):
    """A running operation: ``effect`` is to be done next, until it is ``done`` and has its ``value``.

    Attributes:
        opened: the answer that is being read, which whoever runs the script lets go of in the end.
    """

    effect: Effect
    value: T
    opened: Opened | None = None

    def __init__(self, steps: Steps[T]) -> None:
        self._steps = steps
        self.done = False
        self._advance(None)

    def answer(self, value: Any) -> None:
        if isinstance(value, Opened):
            self.opened = value
        self._advance(value)

    def fail(self, error: Exception) -> None:
        try:
            self.effect = self._steps.throw(error)
        except StopIteration as end:
            self._end(end)

    def close(self) -> None:
        self._steps.close()

    def _advance(self, value: Any) -> None:
        try:
            self.effect = self._steps.send(value)
        except StopIteration as end:
            self._end(end)

    def _end(self, end: StopIteration) -> None:
        self.done = True
        self.value = end.value
