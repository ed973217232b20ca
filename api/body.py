"""Reading a JSON body: of the right type, within the limits, in time, and told precisely what is wrong with it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import orjson
from fastapi import Request

from api import long_strings
from api.budget import Room
from api.cycle import take_body
from shared.errors import (
    BadRequest,
    FieldError,
    PayloadTooLarge,
    RequestTimeout,
    Unavailable,
    UnsupportedMediaType,
    ValidationFailed,
)

Result = TypeVar("Result")

#: A client that sends without waiting reads no answer before it has sent: this much more is read and
#: thrown away so that it gets to see the 413.
_DRAIN_BYTES = 64_000_000
_DRAIN_SECONDS = 5.0

#: A body up to here is read without asking for room.
_FREE_BYTES = 64 * 1024
#: A client may send nothing for so long, and must send this many bytes a second on the whole.
IDLE_SECONDS = 15.0
SLOWEST = 250_000

#: A body up to here is worked on at once, a longer one on a thread, so that others need not wait for it.
INLINE_BYTES = 16 * 1024
#: From here on a body counts as large.
LARGE_BYTES = 1_000_000
#: Fields and elements of a whole body at most: ten times what a long conversation with a large schema has.
#: Each costs some 100 bytes and a microsecond, wherever it stands.
MAX_PARTS = 10_000
#: Objects and arrays within one another at most: thrice as many as the deepest schema may have. What works on a body may
#: call itself for each.
MAX_DEPTH = 100
_SLICE = 256 * 1024


def here(request: Request, limit: int) -> bytes | None:
    """The body, not yet parsed, where it is small and has come with its request: nearly always.

    Raises:
        UnsupportedMediaType: it is not declared as JSON, or compressed.
    """
    media_type = media_type_of(request)
    if media_type != "application/json" and not (
        media_type.startswith("application/") and media_type.endswith("+json")
    ):
        raise unsupported(request, "JSON", "application/json")
    declared = declared_length(request)
    small = declared is not None and declared <= min(limit, _FREE_BYTES)
    return take_body(request.scope) if small else None


async def read(request: Request, limit: int, room: Room) -> bytes:
    """The body, not yet parsed.

    Args:
        limit: bytes at most.
        room: holds what a longer body takes in memory, from before it is read.

    Raises:
        UnsupportedMediaType: it is not declared as JSON, or compressed.
        PayloadTooLarge: more than the limit, declared or sent.
        RequestTimeout: it comes too slowly.
        Unavailable: there is no room for it.
    """
    data = here(request, limit)
    return await _collect(request, declared_length(request), limit, room) if data is None else data


async def chunks(request: Request, limit: int, room: Room) -> AsyncIterator[bytes]:
    """The body piece by piece, to be worked on while the rest is on its way. Raises as ``read`` does.

    What its reader spends on a piece does not count against the client.
    """
    declared = declared_length(request)
    if declared is not None and declared > limit:
        await drain_unless_asked(request)
        raise too_large(limit)
    expected = limit if declared is None else declared
    if expected > _FREE_BYTES:
        await _take(request, room, expected)
    clock = asyncio.get_running_loop().time
    size, waited, stream = 0, 0.0, request.stream()
    while True:
        began = clock()
        try:
            async with asyncio.timeout(min(IDLE_SECONDS, IDLE_SECONDS + expected / SLOWEST - waited)):
                chunk = await anext(stream, None)
        except TimeoutError:
            raise _late(size) from None
        if chunk is None:
            return
        waited += clock() - began
        size += len(chunk)
        if size > limit:
            await drain(request)
            raise too_large(limit)
        yield chunk


def parse(body: bytes) -> Any:
    """What the body says. Of two keys that are the same, the last one counts.

    Raises:
        BadRequest: it is empty or not JSON.
        ValidationFailed: it has too many parts, which is found out before any is made.
    """
    if not body:
        raise BadRequest("The body is empty; a JSON object is needed.", code="invalid_json")
    try:
        return loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequest(
            f"The body is not JSON: {reason(error)} at line {error.lineno}, column {error.colno}.",
            code="invalid_json",
        ) from None


def loads(data: bytes) -> Any:
    """What JSON says, without holding the interpreter for long.

    Raises:
        orjson.JSONDecodeError: it is none.
        ValidationFailed: it has too many parts, which is found out before any is made, or too many levels.
    """
    if len(data) > INLINE_BYTES and has_more_parts(data, MAX_PARTS):
        message = f"has more than {MAX_PARTS:,} fields and elements"
        raise ValidationFailed(
            "The job is not allowed; errors names each field.", errors=[FieldError("", "too_large", message)]
        )
    parsed = long_strings.loads(data) if len(data) >= LARGE_BYTES else orjson.loads(data)
    if data.count(b"{") + data.count(b"[") > MAX_DEPTH and is_deeper(parsed, MAX_DEPTH):
        message = f"has objects or arrays more than {MAX_DEPTH} levels deep"
        raise ValidationFailed(
            "The job is not allowed; errors names each field.", errors=[FieldError("", "too_deep", message)]
        )
    return parsed


def is_deeper(value: Any, limit: int) -> bool:
    """Whether objects and arrays stand within one another on more levels than the limit."""
    level = [value]
    for _ in range(limit + 1):
        inner = [part for part in level if isinstance(part, dict | list)]
        if not inner:
            return False
        level = [child for part in inner for child in (part.values() if isinstance(part, dict) else part)]
    return True


def unsupported(request: Request, what: str, media_type: str) -> UnsupportedMediaType:
    """The error for a body of another type than the one that is right."""
    declared = request.headers.get("content-type", "")
    instead = f"not {declared[:100]}" if declared else "which was not said"
    return UnsupportedMediaType(f"The body must be {what}, {instead}: send Content-Type: {media_type}.")


def media_type_of(request: Request) -> str:
    """What the body is declared as, without parameters.

    Raises:
        UnsupportedMediaType: it is compressed, or not in UTF-8.
    """
    declared = request.headers.get("content-type", "")
    # As nearly everybody writes it.
    media_type = declared if declared == "application/json" else _without_parameters(declared)
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding != "identity":
        raise UnsupportedMediaType(f"Send the body uncompressed, not as {encoding[:40]}.")
    return media_type


def _without_parameters(declared: str) -> str:
    media_type, *parameters = (part.strip().lower() for part in declared.split(";"))
    charsets = [value.partition("=")[2].strip('"') for value in parameters if value.startswith("charset=")]
    if charsets and charsets[0] not in {"utf-8", "utf8", "us-ascii"}:
        raise UnsupportedMediaType(f"JSON is UTF-8, not {charsets[0][:40]}.")
    return media_type


async def worked_on(size: int, function: Callable[..., Result], *arguments: Any) -> Result:
    """The function's result; for a body of more than ``INLINE_BYTES`` it runs on a thread."""
    if size > INLINE_BYTES:
        return await asyncio.to_thread(function, *arguments)
    return function(*arguments)


async def _collect(request: Request, declared: int | None, limit: int, room: Room) -> bytes:
    if declared is not None and declared > limit:
        await drain_unless_asked(request)
        raise too_large(limit)
    if declared is not None and declared > _FREE_BYTES:
        await _take(request, room, declared)
    expected = limit if declared is None else declared
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(IDLE_SECONDS) as patience:
            loop = asyncio.get_running_loop()
            deadline = loop.time() + IDLE_SECONDS + expected / SLOWEST
            async for chunk in request.stream():
                size += len(chunk)
                if size > limit:
                    break
                if size > _FREE_BYTES:
                    if not room.held:
                        await _take(request, room, limit)
                    patience.reschedule(min(loop.time() + IDLE_SECONDS, deadline))
                chunks.append(chunk)
    except TimeoutError:
        raise _late(size) from None
    if size > limit:
        chunks.clear()
        await drain(request)
        raise too_large(limit)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def declared_length(request: Request) -> int | None:
    declared = request.headers.get("content-length", "")
    return int(declared[:20]) if declared.isascii() and declared.isdigit() else None


async def _take(request: Request, room: Room, size: int) -> None:
    try:
        await room.take(size)
    except Unavailable:
        await drain_unless_asked(request)
        raise


async def drain_unless_asked(request: Request) -> None:
    """Who asks whether to send needs no draining: the answer comes before the body."""
    if request.headers.get("expect", "").lower() != "100-continue":
        await drain(request)


async def drain(request: Request) -> None:
    """Throws away what is still to come of a body, up to a bound: only then does its client read the answer."""
    drained = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_DRAIN_SECONDS):
            while drained < _DRAIN_BYTES:
                message = await request.receive()
                drained += len(message.get("body", b""))
                if message["type"] != "http.request" or not message.get("more_body"):
                    return


def _late(size: int) -> RequestTimeout:
    return RequestTimeout(
        f"The body did not come in time: {size:,} bytes were there.", headers={"Connection": "close"}
    )


def too_large(limit: int) -> PayloadTooLarge:
    # What was not read cannot be told from the next request: the connection ends here.
    return PayloadTooLarge(f"The body is over the limit of {limit:,} bytes.", headers={"Connection": "close"})


def reason(error: orjson.JSONDecodeError) -> str:
    """What the parser has to say, without the place."""
    return error.msg.partition(": line ")[0].rstrip(".")


def has_more_parts(body: bytes, limit: int) -> bool:
    """Whether JSON has more fields and elements than the limit; of what is no JSON, anything may be said.

    Counts what begins a part or parts two. Slice by slice: no step holds the interpreter for long.
    """
    starts = range(0, len(body), _SLICE)
    if (
        sum(body.count(sign, start, start + _SLICE) for start in starts for sign in (b",", b"[", b"{"))
        <= limit
    ):
        return False  # even if none of them stands in a string
    found, inside, carried = 0, 0, b""
    for start in starts:
        piece = carried + body[start : start + _SLICE]
        # A backslash at the end belongs to what follows.
        carried = b"\\" if (len(piece) - len(piece.rstrip(b"\\"))) % 2 else b""
        piece = piece[: len(piece) - len(carried)]
        strings = piece.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
        outside = b"".join(strings[inside::2])
        inside = (inside + len(strings) - 1) % 2
        found += sum(outside.count(sign) for sign in (b",", b"[", b"{"))
        if found > limit:
            return True
    return False
