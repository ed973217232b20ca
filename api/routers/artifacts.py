"""Download pictures."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from sqlalchemy import Row
from starlette.responses import Response, StreamingResponse

from api import conditional
from api.deps import ProjectRoute, caller_of, services_of, uuid_of
from api.openapi import ARTIFACT_ANSWERS, ARTIFACT_PARAMETERS, answers
from shared import storage
from shared.artifacts import queries
from shared.errors import Gone, NotFound

router = APIRouter(prefix="/api/v1/artifacts", tags=["artifacts"], route_class=ProjectRoute)

#: What a browser may show; anything else is only ever downloaded.
_SUFFIXES = {
    "image/png": "png",
    "image/jpeg": "jpg",
    "image/webp": "webp",
    "image/gif": "gif",
    "image/heic": "heic",
    "image/heif": "heif",
}


@router.get(
    "/{artifact_id}",
    summary="Download a picture",
    response_class=Response,
    responses={**ARTIFACT_ANSWERS, **answers(401, 403, 404, 410, 416, 503, not_modified=True)},
    openapi_extra={"parameters": ARTIFACT_PARAMETERS},
)
async def download(
    request: Request,
    artifact_id: Annotated[str, Path(description="The artifact's id.", json_schema_extra={"format": "uuid"})],
) -> Response:
    """The bytes, or one range of them. They never change: keep them as long as you like."""
    database = services_of(request).database
    wanted_id = uuid_of(artifact_id)
    if wanted_id is None:
        raise _not_found()
    async with database.transaction() as db:
        row = await queries.find(db, caller_of(request).project_id, wanted_id)
    if row is None:
        raise _not_found()
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
    slices = storage.read_slices(database, row.id, start, stop)
    try:
        first = await anext(slices)  # before the headers are out, so that its failure can still be told
    except LookupError:
        raise Gone("The bytes of this artifact are no longer there.") from None
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


def _not_found() -> NotFound:
    return NotFound("There is no such artifact in this project.", code="artifact_not_found")
