"""uvicorn's HTTP protocol, with a limit on what stands before a request's body (httptools itself has none), and with an
answer's head and body in one packet."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from api.cycle import EXTENSIONS, Cycle, note
from api.hub import Hub
from api.standstill import Standstill

#: Request line and headers together, in bytes.
MAX_HEAD_BYTES = 64 * 1024


def _answer(status: int, title: str, code: str, detail: str) -> bytes:
    """What is answered where there is no request yet, and so no address and no id: then the connection ends."""
    body = orjson.dumps(
        {
            "type": f"/docs#error-{code}",
            "title": title,
            "status": status,
            "detail": detail,
            "instance": "",
            "code": code,
            "request_id": "",
        }
    )
    head = (
        f"HTTP/1.1 {status} {title}\r\ncontent-type: application/problem+json\r\ncache-control: no-store\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body


_TOO_LARGE = _answer(
    431,
    "Request header fields too large",
    "headers_too_large",
    f"Request line and headers together are over the limit of {MAX_HEAD_BYTES:,} bytes.",
)
_NO_HTTP = _answer(
    400,
    "Bad request",
    "bad_request",
    "This is no HTTP/1.1 as RFC 9112 has it: look at the request line, the headers, and how the body's length is said.",
)


class OneWrite:
    """A transport that holds an answer's head back until its body comes, in the same step of the loop or never.

    uvicorn writes them one by one: two system calls an answer, each of which wakes the client.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._call_soon = asyncio.get_running_loop().call_soon
        self._held = b""
        #: Bytes so far.
        self.written = 0

    def write(self, data: bytes) -> None:
        self.written += len(data)
        if self._held:
            data, self._held = self._held + data, b""
            self._transport.write(data)
        elif data.startswith(b"HTTP/1.1 ") and data.endswith(b"\r\n\r\n"):
            self._held = data
            self._call_soon(self._flush)
        else:
            self._transport.write(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        held, self._held = self._held, b""
        if held:
            self._transport.write(held)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class LimitedProtocol(HttpToolsProtocol):
    """Cuts a connection whose request line and headers do not end in time for the limit.

    Told to stop, the server waits for the answers under way: those that wait for something are given at once then.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        #: Bytes of a head that is not complete; None between a head's end and the next request.
        self._head: int | None = 0
        #: Whether a request began in the present piece, which may hold the end of another one's body.
        self._begun = False
        #: The request that is being answered, or was last; others may wait behind it.
        self._answering: RequestResponseCycle | None = None
        self._standstill: Standstill | None = self.app_state.get("standstill")
        #: When the last answer ended; None while anything is under way.
        self._idle_since: float | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._out = OneWrite(transport)
        super().connection_made(self._out)  # type: ignore[arg-type]
        if self._standstill is not None:
            self._standstill.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """uvicorn tells the last request only; the others would go on, and fail with a traceback."""
        if self._standstill is not None:
            self._standstill.discard(self)
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
        for cycle in (self._answering, *(cycle for cycle, _ in self.pipeline)):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
        self.pipeline.clear()
        super().connection_lost(exc)

    @property
    def written(self) -> int:
        """Bytes that were given to the transport."""
        return self._out.written

    def on_response_complete(self) -> None:
        """As uvicorn's, but for its timer: that is set and called off for each request, which costs a poll a twentieth.

        Here it runs on, and finds out whether there was anything meanwhile.
        """
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            return
        self._idle_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._look_later(self.timeout_keep_alive)

    def timeout_keep_alive_handler(self) -> None:
        self.timeout_keep_alive_task = None
        if self._idle_since is None:
            return  # the answer's end sets it again
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self._look_later(left)
        else:
            super().timeout_keep_alive_handler()

    def _look_later(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def _unset_keepalive_if_required(self) -> None:
        """Something came."""
        self._idle_since = None

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        cycle.__class__ = Cycle  # uvicorn names its own in the middle of a method
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def data_received(self, data: bytes) -> None:
        self._begun = False
        super().data_received(data)
        if self._head is None or self._begun:
            return
        self._head += len(data)
        if self._head > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._end(_TOO_LARGE)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002
        """What came is no HTTP. Where an answer is still owed to a whole request before it, that one is given first."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete or (cycle.more_body and not cycle.response_started):
            self._end(_NO_HTTP)
        else:
            cycle.keep_alive = False
            self.flow.pause_reading()

    def _end(self, answer: bytes) -> None:
        self.transport.write(answer)
        self.transport.close()

    def shutdown(self) -> None:
        super().shutdown()
        if self._standstill is not None:
            self._standstill.hurry()
        answering = self._answering
        if answering is not None and self.flow.write_paused and answering.scope["state"].get("endless"):
            self.transport.abort()
        hub: Hub | None = self.app_state.get("hub")
        if hub is not None and not hub.closing:
            hub.close()

    def on_message_begin(self) -> None:
        self._head, self._begun = 0, True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._head = None
        self.scope["extensions"] = EXTENSIONS
        super().on_headers_complete()
        note(self.scope, self.cycle)
