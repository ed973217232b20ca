"""An answer that is there as a whole is sent in one step.

ASGI has head and body as two messages, and uvicorn looks at each header twice with a regular expression: of a poll that
is a tenth. An application that finds ``WHOLE`` in ``scope["extensions"]`` may add two texts to ``http.response.start``,
under that name, and is then done: lines of headers, each with its end, which it answers for; and the body.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

WHOLE = "plantain.whole"
EXTENSIONS: dict[str, dict[object, object]] = {WHOLE: {}}


def note(scope: Any, cycle: RequestResponseCycle) -> None:
    """Lets the application find it (``cycle_of``)."""
    # Weakly: they would hold one another, and each request leave work for the garbage collector.
    scope["state"]["cycle"] = weakref.ref(cycle)


def cycle_of(scope: Mapping[str, Any]) -> RequestResponseCycle | None:
    """The cycle of a request; None where another server has taken it."""
    find = scope.get("state", {}).get("cycle")
    found: RequestResponseCycle | None = find and find()
    return found


def take_body(scope: Mapping[str, Any]) -> bytes | None:
    """A request's body where all of it has come and nothing was taken yet, as ``receive`` would give it."""
    cycle = cycle_of(scope)
    if cycle is None or cycle.more_body or cycle.disconnected or not cycle.message_event.is_set():
        return None
    cycle.message_event.clear()
    body, cycle.body = bytes(cycle.body), bytearray()
    return body


def _lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    return b"".join([b"%b: %b\r\n" % header for header in headers])


_default: tuple[Any, bytes] = (None, b"")


def _by_default(headers: list[tuple[bytes, bytes]]) -> bytes:
    """The server's own, as they go out: a list that it makes anew every second, for the date in it."""
    global _default  # noqa: PLW0603
    made_of, lines = _default
    if made_of is not headers:
        lines = _lines(headers)
        _default = headers, lines
    return lines


class Cycle(RequestResponseCycle):
    """One request and its answer."""

    async def send(self, message: Any) -> None:
        """Raises: RuntimeError: the answer has begun already."""
        whole: tuple[bytes, bytes] | None = message.get(WHOLE)
        if whole is None:
            await super().send(message)
            return
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        if self.response_started:
            raise RuntimeError("the answer has begun already")
        lines, body = whole
        head = self._head(message["status"], message["headers"], lines)
        self.response_started = self.response_complete = True
        self.waiting_for_100_continue = False
        self.transport.write(head if self.scope["method"] == "HEAD" else head + body)
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()

    def _head(self, status: int, headers: Sequence[tuple[bytes, bytes]], lines: bytes) -> bytes:
        """Names are in lower case; the body's length is among them, unless the status means that there is none."""
        head = STATUS_LINE[status] + lines + _by_default(self.default_headers)
        if headers:
            head += _lines(headers)
        if b"\nconnection: close\r" in head:
            self.keep_alive = False
        elif not self.keep_alive:
            head += b"connection: close\r\n"
        return head + b"\r\n"
