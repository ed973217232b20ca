"""HTTP/1.1 with as little Python as possible, so that a benchmark measures the server and not its client."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, cast

_END = b"\r\n\r\n"
_LENGTH = b"\r\ncontent-length:"
_NO_BODY = frozenset({204, 304})


class WireError(Exception):
    """A connection was lost, or an answer is of a kind that this client does not read."""


class Answer(NamedTuple):
    """One HTTP answer."""

    status: int
    head: bytes
    body: bytes

    def header(self, name: bytes) -> bytes | None:
        """The header's value; `name` in lower case."""
        for line in self.head.split(b"\r\n")[1:]:
            key, _, value = line.partition(b":")
            if key.strip().lower() == name:
                return value.strip()
        return None


@dataclass(frozen=True)
class Target:
    """A server, and what every request to it carries."""

    host: str
    port: int
    headers: Mapping[str, str]

    def request(
        self, method: str, path: str, body: bytes = b"", more: Mapping[str, str] | None = None
    ) -> bytes:
        """The bytes of a request."""
        headers = {"Host": f"{self.host}:{self.port}", **self.headers, **(more or {})}
        if body:
            headers |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join(lines).encode() + _END + body


class Connection(asyncio.Protocol):
    """A kept-alive connection with one request under way; `on_answer` is called with each whole answer."""

    def __init__(self, on_answer: Callable[[Connection, Answer], None], on_lost: Callable[[], None]) -> None:
        self._on_answer = on_answer
        self._on_lost = on_lost
        self._buffer = b""
        self._transport: asyncio.Transport | None = None
        #: When the request under way was sent; the loop's monotonic clock.
        self.sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance

    def send(self, request: bytes) -> None:
        assert self._transport is not None
        self._transport.write(request)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        end = buffer.find(_END)
        size = -1 if end < 0 else end + 4 + _content_length(buffer, end)
        if end < 0 or len(buffer) < size:
            self._buffer = buffer
            return
        self._buffer = b""
        self._on_answer(self, Answer(int(buffer[9:12]), buffer[:end], buffer[end + 4 : size]))

    def connection_lost(self, _: Exception | None) -> None:
        self._on_lost()


def _content_length(buffer: bytes, end: int) -> int:
    at = buffer.find(_LENGTH, 0, end)
    if at < 0:
        at = buffer[:end].lower().find(_LENGTH)
    if at < 0:
        if int(buffer[9:12]) in _NO_BODY:
            return 0
        raise WireError(f"an answer without Content-Length: {buffer[:end].decode('latin-1')}")
    start = at + len(_LENGTH)
    stop = buffer.find(b"\r\n", start, end)
    return int(buffer[start : stop if stop >= 0 else end])


class Calls:
    """One connection on which one request after the other is awaited."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._connection: Connection | None = None
        self._waiting: asyncio.Future[Answer] | None = None

    async def call(
        self, method: str, path: str, body: bytes = b"", more: Mapping[str, str] | None = None
    ) -> Answer:
        """Raises: WireError: the connection is lost."""
        loop = asyncio.get_running_loop()
        if self._connection is None:
            _, self._connection = await loop.create_connection(
                lambda: Connection(self._answered, self._lost), self._target.host, self._target.port
            )
        self._waiting = loop.create_future()
        self._connection.send(self._target.request(method, path, body, more))
        return await self._waiting

    def _answered(self, _: Connection, answer: Answer) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(answer)

    def _lost(self) -> None:
        self._connection = None
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(WireError("the server closed the connection"))
