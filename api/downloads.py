"""Sending a stored picture: whole, a range, or nothing where the client has it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import Request
from sqlalchemy import Row
from starlette.responses import Response, StreamingResponse

from api import conditional
from shared.errors import Gone

#: What a browser may show; anything else is only ever downloaded.
_SUFFIXES = {
    "image/png": "png",
    "image/jpeg": "jpg",
    "image/webp": "webp",
    "image/gif": "gif",
    "image/heic": "heic",
    "image/heif": "heif",
}


async def respond(
    request: Request, row: Row[Any], slices_of: Callable[[int, int], AsyncIterator[bytes]]
) -> Response:
    """The answer to a request for a picture.

    Args:
        row: with ``id``, ``media_type``, ``byte_size`` and ``sha256``.
        slices_of: reads the bytes from the first to before the second number.

    Raises:
        Gone: the bytes have been deleted.
        RangeNotSatisfiable: the range lies outside.
    """
    headers = _headers(row)
    if conditional.matches(request.headers.get("if-none-match"), headers["ETag"]):
        return Response(status_code=304, headers=headers)
    size = row.byte_size
    if request.method == "HEAD":
        return Response(headers={**headers, "Content-Length": str(size)}, media_type=row.media_type)
    wanted = conditional.byte_range(
        request.headers.get("range"), request.headers.get("if-range"), headers["ETag"], size
    )
    start, stop = wanted or (0, size)
    slices = slices_of(start, stop)
    try:
        first = await anext(slices)  # before the headers are out, so that its failure can still be told
    except LookupError:
        raise Gone("The bytes of this picture are no longer there.") from None
    headers["Content-Length"] = str(stop - start)
    if wanted:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    return StreamingResponse(
        _joined(first, slices), 206 if wanted else 200, headers=headers, media_type=row.media_type
    )


async def _joined(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for data in rest:
        yield data


def _headers(row: Row[Any]) -> dict[str, str]:
    suffix = _SUFFIXES.get(row.media_type)
    return {
        "ETag": f'"{row.sha256.hex()}"',
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, max-age=31536000, immutable",
        "Content-Disposition": f'{"inline" if suffix else "attachment"}; filename="{row.id}.{suffix or "bin"}"',
        "Content-Security-Policy": "default-src 'none'; sandbox",
    }
