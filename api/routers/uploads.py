"""Give files for jobs to use; look at them, fetch and delete them."""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from starlette.responses import Response

from api import downloads, multipart, render
from api.deps import ProjectRoute, caller_of, services_of, uuid_of
from api.openapi import DOWNLOAD_ANSWERS, DOWNLOAD_PARAMETERS, UPLOAD_ANSWERS, UPLOAD_BODY, answers
from shared import storage
from shared.errors import AppError, FieldError, ValidationFailed
from shared.uploads.schemas import UploadView, view
from shared.uploads.service import Receiving

router = APIRouter(prefix="/api/v1/uploads", tags=["uploads"], route_class=ProjectRoute)

UploadId = Annotated[str, Path(description="The upload's id.", json_schema_extra={"format": "uuid"})]

#: What receiving a file takes in memory: a slice, what comes behind it, and a copy of it on its way to the database.
_ROOM_BYTES = 4 * storage.SLICE_BYTES
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_FILENAME = 255
#: Of a field that is no file; it is held in memory.
_MAX_FIELD = 1000
_FIELDS = ["file", "sha256"]


@router.post(
    "",
    status_code=201,
    response_model=UploadView,
    summary="Upload a picture",
    responses={**UPLOAD_ANSWERS, **answers(400, 401, 403, 408, 413, 415, 422, 503)},
    openapi_extra={"requestBody": UPLOAD_BODY},
)
async def upload(request: Request) -> Response:
    """Stores a picture, for any number of jobs to name as `{"upload_id": …}` among their `input_images`.

    What it is, its bytes say: what they were declared as counts for nothing. The same file is stored once: uploaded again
    it is answered with `200` and the upload that there is, so repeating a request that was not answered is safe.
    """
    services = services_of(request)
    form = multipart.Form(request, services.settings.max_upload_bytes + multipart.OVERHEAD_BYTES)
    receiving = services.uploads.receive(caller_of(request).project_id)
    async with services.body_bytes.room() as room:
        try:
            await room.take(_ROOM_BYTES)
            row, is_new = await _receive(form, receiving)
        except AppError as error:
            await receiving.abandon()
            if not form.ended:
                await form.drain()
                error.headers["Connection"] = (
                    "close"  # what was not read cannot be told from the next request
                )
            raise
        except BaseException:
            await receiving.abandon()
            raise
    answer = view(row, request.scope["public_url"])
    return render.JsonResponse(answer, 201 if is_new else 200, headers={"Location": answer["url"]})


async def _receive(form: multipart.Form, receiving: Receiving) -> tuple[Any, bool]:
    file: multipart.Part | None = None
    given: dict[str, bytes] = {}
    async for part, data in form.pieces():
        if not data:
            _known(part, file, given)
        if part.name == "file":
            file = part
            await receiving.write(data)
        else:
            given[part.name] = given.get(part.name, b"") + data
            if len(given[part.name]) > _MAX_FIELD:
                raise _wrong(f"/{part.name}", "too_long", f"is longer than {_MAX_FIELD} bytes")
    if file is None:
        raise _wrong("/file", "missing", 'is required: the part named "file" holds the picture')
    name = (file.filename or "").replace("\0", "")[:_MAX_FILENAME] or None
    return await receiving.complete(filename=name, digest=_digest(given))


def _known(part: multipart.Part, file: multipart.Part | None, given: dict[str, bytes]) -> None:
    """Raises: ValidationFailed: a part that there is none of here, or that came before."""
    if part.name not in _FIELDS:
        message = f"is not a field here; use one of: {', '.join(_FIELDS)}"
        raise _wrong(f"/{part.name[:100]}", "extra_forbidden", message, _FIELDS)
    if part.name in given or (part.name == "file" and file is not None):
        raise _wrong(f"/{part.name}", "repeated", "came twice; send one upload with each request")


def _digest(given: dict[str, bytes]) -> str | None:
    if "sha256" not in given:
        return None
    text = given["sha256"][:100].decode("ascii", "replace").strip().lower()
    if not _SHA256.fullmatch(text):
        raise _wrong("/sha256", "malformed", "must be 64 hexadecimal digits")
    return text


def _wrong(pointer: str, code: str, message: str, allowed: list[str] | None = None) -> ValidationFailed:
    error = FieldError(pointer, code, message, allowed)
    return ValidationFailed("The form is not allowed; errors names each field.", errors=[error])


@router.get(
    "/{upload_id}",
    response_model=UploadView,
    summary="Look at an upload",
    responses=answers(401, 403, 404, 503),
)
async def get(request: Request, upload_id: UploadId) -> Response:
    """What the file is, and until when it is kept."""
    row = await services_of(request).uploads.get(caller_of(request).project_id, uuid_of(upload_id))
    return render.JsonResponse(
        view(row, request.scope["public_url"]), headers={"Cache-Control": "private, no-cache"}
    )


@router.get(
    "/{upload_id}/content",
    summary="Download an upload",
    response_class=Response,
    responses={**DOWNLOAD_ANSWERS, **answers(401, 403, 404, 410, 416, 503, not_modified=True)},
    openapi_extra={"parameters": DOWNLOAD_PARAMETERS},
)
async def content(request: Request, upload_id: UploadId) -> Response:
    """The bytes, or one range of them, as they were given."""
    services = services_of(request)
    row = await services.uploads.get(caller_of(request).project_id, uuid_of(upload_id))
    return await downloads.respond(
        request, row, lambda start, stop: storage.read_upload_slices(services.database, row.id, start, stop)
    )


@router.delete(
    "/{upload_id}",
    status_code=204,
    summary="Delete an upload",
    responses=answers(401, 403, 404, 409, 503),
)
async def delete(request: Request, upload_id: UploadId) -> Response:
    """Deletes the file at once; not while a job refers to it. Left alone, it goes by itself at `expires_at`."""
    await services_of(request).uploads.delete(caller_of(request).project_id, uuid_of(upload_id))
    return Response(status_code=204)
