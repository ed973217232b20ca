"""Reading a JSON body: of the right type, within the limit, and told precisely what is wrong with it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import orjson
from fastapi import Request

from shared.errors import BadRequest, PayloadTooLarge, UnsupportedMediaType

#: A client that sends without waiting reads no answer before it has sent: this much more is read and
#: thrown away so that it gets to see the 413.
_DRAIN_BYTES = 64_000_000
_DRAIN_SECONDS = 5.0


#: From here on a body counts as large.
LARGE_BYTES = 1_000_000


async def read(request: Request, limit: int) -> bytes:
    """The body, not yet parsed.

    Args:
        limit: bytes at most.

    Raises:
        UnsupportedMediaType: it is not declared as JSON, or compressed.
        PayloadTooLarge: more than the limit, declared or sent.
    """
    _require_json(request)
    return await _collect(request, limit)


def parse(body: bytes) -> Any:
    """What the body says. Of two keys that are the same, the last one counts.

    Raises:
        BadRequest: it is empty or not JSON.
    """
    if not body:
        raise BadRequest("The body is empty; a JSON object is needed.", code="invalid_json")
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequest(
            f"The body is not JSON: {_reason(error)} at line {error.lineno}, column {error.colno}.",
            code="invalid_json",
        ) from None


def _require_json(request: Request) -> None:
    declared = request.headers.get("content-type", "")
    media_type, *parameters = (part.strip().lower() for part in declared.split(";"))
    if media_type != "application/json" and not (
        media_type.startswith("application/") and media_type.endswith("+json")
    ):
        what = f"not {declared[:100]}" if declared else "which was not said"
        raise UnsupportedMediaType(f"The body must be JSON, {what}: send Content-Type: application/json.")
    charsets = [value.partition("=")[2].strip('"') for value in parameters if value.startswith("charset=")]
    if charsets and charsets[0] not in {"utf-8", "utf8", "us-ascii"}:
        raise UnsupportedMediaType(f"JSON is UTF-8, not {charsets[0][:40]}.")
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding != "identity":
        raise UnsupportedMediaType(f"Send the body uncompressed, not as {encoding[:40]}.")


async def _collect(request: Request, limit: int) -> bytes:
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and int(declared[:20]) > limit:
        # Who asks whether to send needs no draining: the answer comes before the body.
        if request.headers.get("expect", "").lower() != "100-continue":
            await _drain(request)
        raise _too_large(limit)
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            chunks.clear()
            await _drain(request)
            raise _too_large(limit)
        chunks.append(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def _drain(request: Request) -> None:
    drained = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_DRAIN_SECONDS):
            while drained < _DRAIN_BYTES:
                message = await request.receive()
                drained += len(message.get("body", b""))
                if message["type"] != "http.request" or not message.get("more_body"):
                    return


def _too_large(limit: int) -> PayloadTooLarge:
    # What was not read cannot be told from the next request: the connection ends here.
    return PayloadTooLarge(f"The body is over the limit of {limit:,} bytes.", headers={"Connection": "close"})


def _reason(error: orjson.JSONDecodeError) -> str:
    return error.msg.partition(": line ")[0].rstrip(".")
