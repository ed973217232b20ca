"""Download pictures."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Path, Request
from starlette.responses import Response

from api import downloads
from api.deps import ProjectRoute, caller_of, services_of, uuid_of
from api.openapi import DOWNLOAD_ANSWERS, DOWNLOAD_PARAMETERS, answers
from shared import storage
from shared.artifacts import queries
from shared.errors import NotFound

router = APIRouter(prefix="/api/v1/artifacts", tags=["artifacts"], route_class=ProjectRoute)


@router.get(
    "/{artifact_id}",
    summary="Download a picture",
    response_class=Response,
    responses={**DOWNLOAD_ANSWERS, **answers(401, 403, 404, 410, 416, 503, not_modified=True)},
    openapi_extra={"parameters": DOWNLOAD_PARAMETERS},
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

    def slices_of(start: int, stop: int) -> AsyncIterator[bytes]:
        if row.upload_id is not None:
            return storage.read_upload_slices(database, row.upload_id, start, stop)
        return storage.read_slices(database, row.id, start, stop)

    return await downloads.respond(request, row, slices_of)


def _not_found() -> NotFound:
    return NotFound("There is no such artifact in this project.", code="artifact_not_found")
