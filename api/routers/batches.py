"""Many jobs at once: submit, follow and cancel them, and fetch all their results."""

from __future__ import annotations

from collections.abc import AsyncIterator
from hashlib import blake2b, sha256
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Path, Query, Request
from sqlalchemy import Row
from starlette.responses import Response, StreamingResponse

from api import conditional, idempotency, render
from api.batch_body import Reader
from api.batch_stream import BatchStream
from api.batch_views import batch_view, result_lines, retry_after
from api.deps import ProjectRoute, caller_of, services_of, uuid_of
from api.openapi import (
    BATCH_ACCEPTED_HEADERS,
    BATCH_BODY,
    BATCH_EVENTS,
    BATCH_HEADERS,
    BATCH_PARAMETERS,
    BATCH_RESULTS,
    EVENT_PARAMETERS,
    IF_NONE_MATCH,
    answers,
)
from api.routers.events import last_event_id
from shared.batches.intake import Intake
from shared.batches.schemas import BatchCancelled, BatchPage, BatchQuery, BatchView, ResultsQuery
from shared.batches.service import Batch
from shared.errors import NotFound, ValidationFailed
from shared.idempotency.claim import Answer, Claim
from shared.jobs.cursors import cursor_of, read_cursor
from shared.jobs.search import Position

router = APIRouter(prefix="/api/v1/batches", tags=["batches"], route_class=ProjectRoute)

BatchId = Annotated[str, Path(description="The batch's id.", json_schema_extra={"format": "uuid"})]


@router.post(
    "",
    status_code=202,
    response_model=BatchView,
    summary="Submit many jobs",
    responses=answers(400, 401, 403, 408, 409, 413, 415, 422, 503, success={202: BATCH_ACCEPTED_HEADERS}),
    openapi_extra={"requestBody": BATCH_BODY, "parameters": BATCH_PARAMETERS},
)
async def submit(request: Request) -> Response:
    """Up to 10,000 jobs: all of them are stored, or, where one of them is not allowed or anything goes wrong, none.

    As one JSON object, or as JSONL (`application/jsonl`) with a job on each line, which is checked while it comes; then the
    batch's own `priority`, `tag` and `metadata` stand in the query. Each error names the job's `index`, and its `line`.

    The jobs are jobs like all others; those that name no priority get `batch`.
    """
    services, keyed = services_of(request), idempotency.is_keyed(request)
    digest = sha256(f"{request.method} {request.url.path}\n".encode()) if keyed else None
    async with services.body_bytes.room() as room:
        reader = Reader(request, services.settings, services.jobs, room, digest)
        intake = await reader.read(caller_of(request).project_id)
        if digest is None:
            made, _ = await services.batches.create(_allowed(intake))
            return idempotency.response_of(_accepted(request, made))
        claim = idempotency.claim_by(request, digest.digest())

        async def work() -> Answer:
            return await _store_keyed(request, claim, _allowed(intake))

        return await idempotency.answered(request, claim, work)


def _allowed(intake: Intake) -> Intake:
    """Raises: ValidationFailed: something in it is not allowed."""
    if intake.errors:
        raise ValidationFailed(
            "The batch is not allowed, and none of its jobs was stored; errors names each field.",
            errors=intake.errors,
        )
    return intake


async def _store_keyed(request: Request, claim: Claim, intake: Intake) -> Answer:
    """Stores a batch under the key, and with it the answer that the key gives from then on."""
    _, answer = await services_of(request).batches.create(
        intake, (claim, lambda made: _accepted(request, made))
    )
    assert answer is not None
    return answer


def _accepted(request: Request, made: Batch) -> Answer:
    """202 with the new batch."""
    view = batch_view(made, request.scope["public_url"])
    headers = {"Location": view["status_url"], **retry_after(made)}
    return Answer(202, headers, render.dumps(view))


@router.get(
    "",
    response_model=BatchPage,
    summary="List batches",
    responses=answers(400, 401, 403, 422, 503),
)
async def list_batches(request: Request, query: Annotated[BatchQuery, Query()]) -> Response:
    """Newest first. Those that are running are not counted here: look at each by itself."""
    found = await services_of(request).batches.page(
        caller_of(request).project_id,
        state=query.state,
        after=read_cursor(query.cursor) if query.cursor else None,
        limit=query.limit + 1,
    )
    items = [batch_view(batch, request.scope["public_url"]) for batch in found[: query.limit]]
    cursor = None
    if len(found) > query.limit:
        last = found[query.limit - 1].row
        cursor = cursor_of(Position(last.created_at, last.id))
    return render.JsonResponse({"items": items, "next_cursor": cursor})


@router.get(
    "/{batch_id}",
    response_model=BatchView,
    summary="Look at a batch",
    responses=answers(401, 403, 404, 422, 503, success={200: BATCH_HEADERS}, not_modified=True),
    openapi_extra={"parameters": [IF_NONE_MATCH]},
)
async def get(request: Request, batch_id: BatchId) -> Response:
    """Cheap to poll, however many jobs it has and however many ask: they are counted once a second at most."""
    batch = await services_of(request).batches.get(caller_of(request).project_id, batch_id_of(batch_id))
    view = render.dumps(batch_view(batch, request.scope["public_url"]))
    headers = {
        "Cache-Control": "private, no-cache",
        "ETag": f'"{blake2b(view, digest_size=12).hexdigest()}"',
        **retry_after(batch),
    }
    if conditional.matches(request.headers.get("if-none-match"), headers["ETag"]):
        return render.Whole(304, headers)
    return render.JsonResponse(view, headers=headers)


@router.get(
    "/{batch_id}/results",
    response_class=Response,
    summary="Fetch a batch's results",
    responses={**answers(401, 403, 404, 422, 503), **BATCH_RESULTS},
)
async def results(request: Request, batch_id: BatchId, query: Annotated[ResultsQuery, Query()]) -> Response:
    """JSONL, a line for each job in the order of the batch, as it is by then; of a completed batch that is final.

    A job that was deleted has no line. Where the answer broke off, go on `after` the last `index` that came whole.
    """
    row = await _row(request, batch_id)
    headers = {"Cache-Control": "no-store"}
    if request.method == "HEAD":
        return Response(headers=headers, media_type="application/jsonl")
    lines = _lines(request, row.id, query.after)
    first = await anext(lines, b"")  # before the headers are out, so that its failure can still be told
    return StreamingResponse(_joined(first, lines), headers=headers, media_type="application/jsonl")


async def _lines(request: Request, batch_id: UUID, after: int | None) -> AsyncIterator[bytes]:
    async for rows in services_of(request).batches.results(batch_id, after):
        yield result_lines(rows, request.scope["public_url"])


async def _joined(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for data in rest:
        yield data


@router.get(
    "/{batch_id}/events",
    response_class=Response,
    summary="Follow a batch",
    responses={**answers(400, 401, 403, 404, 422, 503), **BATCH_EVENTS},
    openapi_extra={"parameters": EVENT_PARAMETERS},
)
async def events(request: Request, batch_id: BatchId) -> Response:
    """Server-sent events: `batch.progress` at once and whenever its counts have changed, once a second at most, then
    `batch.completed`, with which the stream ends.

    Progress is how things are, and has no `id`; what its jobs do one by one is in the project's stream. With the
    `Last-Event-ID` of `batch.completed`, 204: nothing is to come.
    """
    after = await last_event_id(request)
    row = await _row(request, batch_id)
    if after and row.completed_at is not None:
        completion = await services_of(request).batches.completion(row.id)
        if completion is None or completion <= after:
            return Response(status_code=204)
    return BatchStream(request, row.id)


@router.post(
    "/{batch_id}/cancel",
    response_model=BatchCancelled,
    summary="Cancel a batch",
    responses=answers(401, 403, 404, 503),
)
async def cancel(request: Request, batch_id: BatchId) -> Response:
    """Cancels those of its jobs that are not final. What takes longer than the request is done afterwards, so once is
    enough; again, or too late, is no error.
    """
    services, found = services_of(request), batch_id_of(batch_id)
    batch, done = await services.batches.cancel(caller_of(request).project_id, found)
    return render.JsonResponse(
        {
            "batch": batch_view(batch, request.scope["public_url"]),
            "cancelled": done.cancelled,
            "cancel_requested": done.cancel_requested,
            "more": done.more,
        }
    )


async def _row(request: Request, batch_id: str) -> Row[Any]:
    """Raises: NotFound."""
    return await services_of(request).batches.row(caller_of(request).project_id, batch_id_of(batch_id))


def batch_id_of(value: str) -> UUID:
    """Raises: NotFound: it has not the form of an id."""
    found = uuid_of(value)
    if found is None:
        raise NotFound("There is no such batch in this project; an id is a UUID.", code="batch_not_found")
    return found
