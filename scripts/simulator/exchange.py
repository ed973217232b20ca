"""One HTTP exchange at the ASGI level: reading with a limit, waiting while watching the client, misbehaving."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs

import orjson
from starlette.types import Receive, Scope, Send

from .facts import MAX_BODY_BYTES

#: Where the server leaves the connection's transport in the ASGI scope (see server.py).
TRANSPORT_KEY = "plantain.transport"

_MAX_DRAINED_BYTES = 8 * MAX_BODY_BYTES

JSON = "application/json; charset=UTF-8"


class ClientLeft(Exception):
    """The client closed the connection before it had its answer."""


class BodyTooLarge(Exception):
    """The request body is larger than this server takes."""


class Exchange:
    """A request and the means to answer it once."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self._receive = receive
        self._send = send
        self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.started = False
        self._leaving: asyncio.Task[None] | None = None

    @property
    def query(self) -> dict[str, str]:
        """The last value of each query parameter."""
        return {name: values[-1] for name, values in parse_qs(self.scope["query_string"].decode()).items()}

    async def body(self) -> bytes:
        """The whole body. Raises BodyTooLarge, ClientLeft.

        A body that is too large is read to its end all the same, and thrown away: a client that is still sending
        would meet a reset instead of its 413.
        """
        parts: list[bytes] = []
        total = 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientLeft
            part = message.get("body", b"")
            total += len(part)
            if total > _MAX_DRAINED_BYTES:
                raise BodyTooLarge
            if total <= MAX_BODY_BYTES:
                parts.append(part)
            else:
                parts.clear()
            if not message.get("more_body"):
                break
        if total > MAX_BODY_BYTES:
            raise BodyTooLarge
        return b"".join(parts)

    async def wait(self, seconds: float) -> None:
        """Sleep; raises ClientLeft as soon as the client has gone. Call it only after the body was read."""
        if seconds > 0:
            await asyncio.wait({self._watch()}, timeout=seconds)
        self.check()

    def check(self) -> None:
        """Raises ClientLeft when the client is known to have gone."""
        if self._watch().done():
            raise ClientLeft

    def _watch(self) -> asyncio.Task[None]:
        if self._leaving is None:
            self._leaving = asyncio.create_task(self._until_left())
        return self._leaving

    async def wait_for(self, task: asyncio.Task[None]) -> None:
        """Wait for work that goes on by itself; raises ClientLeft as soon as the client has gone."""
        await asyncio.wait({task, self._watch()}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientLeft

    async def _until_left(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    def close(self) -> None:
        """Stop watching the client."""
        if self._leaving is not None:
            self._leaving.cancel()

    async def start(
        self, status: int, media_type: str, length: int | None, headers: dict[str, str] | None = None
    ) -> None:
        """Send the status line and headers; without a length the body is chunked."""
        lines = [(b"content-type", media_type.encode())]
        if length is not None:
            lines.append((b"content-length", str(length).encode()))
        lines += [(name.lower().encode(), value.encode("latin-1")) for name, value in (headers or {}).items()]
        self.started = True
        await self._send({"type": "http.response.start", "status": status, "headers": lines})

    async def write(self, part: bytes, more: bool = True) -> None:
        """Send a part of the body."""
        await self._send({"type": "http.response.body", "body": part, "more_body": more})

    async def answer(
        self, status: int, body: bytes, media_type: str = JSON, headers: dict[str, str] | None = None
    ) -> None:
        """Send a whole answer."""
        await self.start(status, media_type, len(body), headers)
        await self.write(body, more=False)

    async def answer_json(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        """Send a whole answer as JSON."""
        await self.answer(status, orjson.dumps(value), JSON, headers)

    async def answer_parts(
        self, status: int, parts: AsyncIterator[bytes], media_type: str, length: int | None = None
    ) -> None:
        """Send an answer part by part."""
        await self.start(status, media_type, length)
        async for part in parts:
            await self.write(part)
        await self.write(b"", more=False)

    def drop(self, reset: bool) -> None:
        """Break the connection without another byte: with a TCP reset, or with an orderly close."""
        transport: asyncio.Transport | None = self.scope.get(TRANSPORT_KEY)
        if transport is None:
            return
        if reset:
            sock = transport.get_extra_info("socket")
            if sock is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()
        else:
            transport.close()
