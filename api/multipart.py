"""Reading multipart/form-data (RFC 7578) as it comes: no part is held in memory, and none goes to a temporary file."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from api import body
from shared.errors import BadRequest, RequestTimeout, UnsupportedMediaType

#: What may come around the file: boundaries, headers, small fields.
OVERHEAD_BYTES = 64 * 1024
_MAX_PARTS = 10


@dataclass(slots=True)
class Part:
    """One part of a form, whose data comes after it."""

    name: str = ""
    filename: str | None = None


class Form:
    """The body of one request.

    Args:
        limit: bytes at most of all of it.
    """

    def __init__(self, request: Request, limit: int) -> None:
        self._request = request
        self._limit = limit
        #: Nothing more will come.
        self.ended = False

    async def pieces(self) -> AsyncIterator[tuple[Part, bytes]]:
        """Each part when it begins, with no data, and then again with every piece of its data.

        Raises:
            UnsupportedMediaType: it is not declared as multipart/form-data, or compressed.
            BadRequest: it is no such thing, or breaks off.
            PayloadTooLarge: more than the limit, declared or sent.
            RequestTimeout: it comes too slowly.
        """
        reader = _Reader(_boundary(self._request))
        async for chunk in self._chunks():
            for found in reader.read(chunk):
                yield found
        reader.finish()

    async def drain(self) -> None:
        """Reads what is left and throws it away: a client that sends without listening gets to see the answer."""
        if not self.ended:
            await body.drain_unless_asked(self._request)

    async def _chunks(self) -> AsyncIterator[bytes]:
        """What comes, within the bounds of ``api.body``."""
        declared = body.declared_length(self._request)
        if declared is not None and declared > self._limit:
            raise body.too_large(self._limit)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + body.IDLE_SECONDS + self._limit / body.SLOWEST
        size = 0
        while not self.ended:
            try:
                async with asyncio.timeout_at(min(loop.time() + body.IDLE_SECONDS, deadline)):
                    message = await self._request.receive()
            except TimeoutError:
                self.ended = True
                raise RequestTimeout(
                    f"The body did not come in time: {size:,} bytes were there.",
                    headers={"Connection": "close"},
                ) from None
            self.ended = not message.get("more_body", False)
            if message["type"] != "http.request":
                raise ClientDisconnect
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > self._limit:
                raise body.too_large(self._limit)
            if chunk:
                yield chunk


class _Reader:
    """Turns the parser's callbacks into pieces."""

    def __init__(self, boundary: bytes) -> None:
        self._parts = 0
        self._part = Part()
        self._name, self._value = b"", b""
        self._ended = False
        self._found: list[tuple[Part, bytes]] = []
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._on_part_begin,
                "on_part_data": self._on_part_data,
                "on_header_field": self._on_header_field,
                "on_header_value": self._on_header_value,
                "on_header_end": self._on_header_end,
                "on_headers_finished": self._on_headers_finished,
                "on_end": self._on_end,
            },
        )

    def read(self, chunk: bytes) -> list[tuple[Part, bytes]]:
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise _malformed(str(error)[:200]) from None
        found, self._found = self._found, []
        return found

    def finish(self) -> None:
        if not self._ended:
            raise _malformed("its closing boundary is missing")

    def _on_part_begin(self) -> None:
        self._parts += 1
        if self._parts > _MAX_PARTS:
            raise _malformed(f"it has more than {_MAX_PARTS} parts")
        self._part = Part()

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        if self._name.lower() == b"content-disposition":
            _, options = parse_options_header(self._value)
            self._part.name = options.get(b"name", b"").decode("utf-8", "replace")
            if b"filename" in options:
                self._part.filename = options[b"filename"].decode("utf-8", "replace")
        self._name, self._value = b"", b""

    def _on_headers_finished(self) -> None:
        self._found.append((self._part, b""))

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._found.append((self._part, data[start:end]))

    def _on_end(self) -> None:
        self._ended = True


def _boundary(request: Request) -> bytes:
    declared = request.headers.get("content-type", "")
    media_type, options = parse_options_header(declared)
    if media_type != b"multipart/form-data":
        what = f"not {declared[:100]}" if declared else "which was not said"
        raise UnsupportedMediaType(
            f"The body must be a form, {what}: send Content-Type: multipart/form-data; boundary=…",
            code="not_a_form",
        )
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding != "identity":
        raise UnsupportedMediaType(f"Send the body uncompressed, not as {encoding[:40]}.", code="not_a_form")
    boundary = options.get(b"boundary", b"")
    if not 0 < len(boundary) <= 70:  # RFC 2046, 5.1.1
        raise _malformed("its Content-Type names no boundary of 1 to 70 characters")
    return boundary


def _malformed(why: str) -> BadRequest:
    return BadRequest(
        f"The body is not multipart/form-data as its Content-Type says: {why}.",
        code="invalid_form",
    )
