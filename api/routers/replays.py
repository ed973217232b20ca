"""Run a job again, or many."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any
from uuid import UUID

from fastapi import APIRouter, Request
from pydantic import ValidationError
from starlette.responses import Response

from api import body, idempotency, render
from api.batch_views import batch_view
from api.deps import ProjectRoute, caller_of, services_of
from api.openapi import (
    ACCEPTED_HEADERS,
    IDEMPOTENCY_KEY,
    REPLAY_BODY,
    REPLAY_MANY_BODY,
    REPLAYED_HEADERS,
    answers,
)
from api.routers.jobs import JobId, accepted, checked, job_id_of, known_words, store_keyed, text_limit
from shared.artifacts import queries as artifacts
from shared.batches.replay_schemas import JobsReplay, JobsReplayed
from shared.batches.service import Batch
from shared.errors import ValidationFailed, field_errors
from shared.idempotency.claim import Answer, Claim
from shared.jobs import replays
from shared.jobs.drafts import Draft
from shared.jobs.outlook import SETTLED
from shared.jobs.schemas import JobView

router = APIRouter(prefix="/api/v1/jobs", tags=["jobs"], route_class=ProjectRoute)


@router.post(
    "/replay",
    status_code=202,
    response_model=JobsReplayed,
    summary="Run many jobs again",
    responses=answers(400, 401, 403, 408, 409, 413, 415, 422, 503, success={200: {}, 202: REPLAYED_HEADERS}),
    openapi_extra={"requestBody": REPLAY_MANY_BODY, "parameters": [IDEMPOTENCY_KEY]},
)
async def replay_all(request: Request) -> Response:
    """Makes one batch of what the final jobs that a filter lets through asked for, newest first; `dry_run` makes nothing
    and says all that it would.

    Each is checked as if it were submitted now. One that is not allowed any more, or whose pictures are gone, is
    skipped and named. Where the answer has a `next_cursor`, there are more: send it again with that as `cursor`.
    """
    services = services_of(request)
    async with services.body_bytes.room() as room:
        data = await body.read(request, services.settings.max_body_bytes, room)
        parsed = await body.worked_on(len(data), body.parse, data)
        wanted = _wanted(parsed)
        if not idempotency.is_keyed(request):
            return idempotency.response_of(await _replay_all(request, wanted, None))
        claim = await body.worked_on(len(data), idempotency.claim_of, request, data, parsed)
        if wanted.dry_run:  # it makes nothing that could be made twice
            return idempotency.response_of(await _replay_all(request, wanted, None))
        return await idempotency.answered(request, claim, lambda: _replay_all(request, wanted, claim))


def _wanted(parsed: Any) -> JobsReplay:
    try:
        wanted = JobsReplay.model_validate(parsed)
    except ValidationError as error:
        raise ValidationFailed(
            "The request is not allowed; errors names each field.", errors=field_errors(error)
        ) from None
    known_words(wanted.filter, "/filter/")
    return wanted


async def _replay_all(request: Request, wanted: JobsReplay, claim: Claim | None) -> Answer:
    """What was found, and the batch that was made of it; with a claim, this answer is kept."""
    services = services_of(request)
    async with services.body_bytes.room() as room:
        await room.take(services.settings.max_body_bytes)  # a dry run checks, and so holds, as much
        found = await services.replays.find(
            caller_of(request).project_id, wanted, request_id=request.scope["request_id"]
        )
        public_url = request.scope["public_url"]

        def answer_of(made: Batch | None) -> Answer:
            view: dict[str, Any] = {
                "dry_run": wanted.dry_run,
                "matched": found.matched,
                "skipped": found.skipped,
                "problems": found.problems,
                "sample": [render.job_view(row, SETTLED, public_url) for row in found.sample],
                "batch": batch_view(made, public_url) if made else None,
                "next_cursor": found.next_cursor,
            }
            headers = {"Location": view["batch"]["status_url"]} if view["batch"] else {}
            return Answer(202 if made else 200, headers, render.dumps(view))

        if wanted.dry_run or not found.intake.total:
            return answer_of(None)
        made, answer = await services.batches.create(found.intake, (claim, answer_of) if claim else None)
        return answer or answer_of(made)


@router.post(
    "/{job_id}/replay",
    status_code=202,
    response_model=JobView,
    summary="Run a job again",
    responses=answers(400, 401, 403, 404, 408, 409, 410, 413, 415, 422, 503, success={202: ACCEPTED_HEADERS}),
    openapi_extra={"requestBody": REPLAY_BODY, "parameters": [IDEMPOTENCY_KEY]},
)
async def replay(request: Request, job_id: JobId) -> Response:
    """Submits what the job asked for as a new one, whatever became of it; `replay_of` names it.

    The body, which may be left out, is a JSON merge patch (RFC 7396) of the submit: its fields replace those of the source,
    also within `input`, and null takes one back to its default. Tags and metadata come along, and input pictures unless
    `input.input_images` says otherwise. `scheduled_at`, `expires_at` and `webhook_url` are not carried over; the `kind`
    cannot change.
    """
    source = job_id_of(job_id)
    services = services_of(request)
    async with services.body_bytes.room() as room:
        data = (
            await body.read(request, services.settings.max_body_bytes, room) if _has_body(request) else b"{}"
        )
        changes = await body.worked_on(len(data), body.parse, data)
        if not idempotency.is_keyed(request):
            row = await services.jobs.store(await _draft(request, source, changes, len(data)))
            request.scope["job_id"] = row.id  # for the log
            return idempotency.response_of(accepted(request, row, await services.waiting.first_outlook(row)))
        claim = await body.worked_on(len(data), idempotency.claim_of, request, data, changes)

        async def work() -> Answer:
            return await store_keyed(request, claim, await _draft(request, source, changes, len(data)))

        return await idempotency.answered(request, claim, work)


async def _draft(request: Request, source: UUID, changes: Any, size: int) -> Draft:
    """The new job. The source's pictures take the memory that they took when they came."""
    services, project_id = services_of(request), caller_of(request).project_id
    with_images = not replays.brings_images(changes)
    async with AsyncExitStack() as held:
        async with services.database.transaction() as db:
            pictures = await artifacts.inputs(db, source) if with_images else ()
        own = [picture.byte_size for picture in pictures if picture.upload_id is None]
        if own:
            size += sum(own) * 4 // 3
            await (await held.enter_async_context(services.body_bytes.room())).take(size)
            await held.enter_async_context(services.large_bodies)
        async with services.database.transaction() as db:
            asked = await replays.request_of(db, project_id, source, with_images=with_images)
        wanted = replays.changed(asked, changes)
        job = await body.worked_on(size, checked, wanted, size, text_limit(services.settings))
        return await services.jobs.draft(
            project_id, job, replay_of=source, request_id=request.scope["request_id"]
        )


def _has_body(request: Request) -> bool:
    return request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers
