"""Submit, look at, list and cancel jobs; fetch results."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from hashlib import blake2b
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Path, Query, Request
from pydantic import ValidationError
from sqlalchemy import Row
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from api import body, conditional, idempotency, prefer, render
from api.deps import ProjectRoute, Services, caller_of, services_of, uuid_of
from api.openapi import (
    ACCEPTED_HEADERS,
    CANCEL_BODY,
    GET_PARAMETERS,
    JOB_HEADERS,
    RESULT_HEADERS,
    SUBMIT_BODY,
    SUBMIT_PARAMETERS,
    answers,
)
from api.render import Whole
from api.waiting import is_final, wait_until
from shared.config import Settings
from shared.db import is_unavailable
from shared.errors import FieldError, NotFound, PayloadTooLarge, ValidationFailed, field_errors
from shared.idempotency.claim import Answer, Claim
from shared.jobs.drafts import Draft
from shared.jobs.list_schemas import (
    JobFilter,
    JobPage,
    JobQuery,
    JobsCancel,
    JobsCancelled,
    JobsSummary,
    SummaryQuery,
)
from shared.jobs.outlook import Outlook
from shared.jobs.queries import JobRow, NewJob
from shared.jobs.schemas import CancelReceipt, JobDetail, JobResult, JobSubmit, JobView
from shared.jobs.status import FINAL
from shared.kinds import KINDS
from shared.names import name_of
from shared.providers.catalog import catalog

log = logging.getLogger(__name__)

router = APIRouter(prefix="/api/v1/jobs", tags=["jobs"], route_class=ProjectRoute)

_NO_HEADERS: Mapping[str, str] = {}
#: A filter's longest values take a tenth of it.
_MAX_FILTER_BYTES = 100_000

JobId = Annotated[str, Path(description="The job's id.", json_schema_extra={"format": "uuid"})]


@router.post(
    "",
    status_code=202,
    response_model=JobView,
    summary="Submit a job",
    responses=answers(400, 401, 403, 408, 409, 413, 415, 422, 503, success={202: ACCEPTED_HEADERS}),
    openapi_extra={"requestBody": SUBMIT_BODY, "parameters": SUBMIT_PARAMETERS},
)
async def submit(request: Request) -> Response:
    """Stores the job durably and answers at once; a worker runs it. Then poll `status_url`.

    With `Prefer: wait=N` the answer comes when the job is final, or after N seconds, with the job as it then is.

    A broker that is away fails nothing: the job is kept and its workers are told later. Send an `Idempotency-Key`
    and repeat the request until it is answered: there will be one job, and each repetition gets the same answer, at once.
    """
    services, wait = services_of(request), prefer.wait_seconds(request.headers.get("prefer"))
    if not wait:
        response = await _submit(request, services)
        if wait is not None:
            response.add(prefer.applied(wait))
        return response
    with services.hub.place():  # where there is none, nothing has been stored yet
        response = await _submit(request, services)
        # An answer that was kept names its job, and is given as it is.
        job_id: UUID | None = request.scope.get("job_id")
        row = await _until_final(request, job_id, wait) if job_id else None
    if row is None:
        return response
    outlook = await services.waiting.outlook(row)
    view = render.job_view(row, outlook, request.scope["public_url"])
    answer = _accepted(view["status_url"], row, outlook, render.dumps(view))
    return idempotency.response_of(answer, prefer.applied(wait))


async def _submit(request: Request, services: Services) -> Whole:
    run = _submit_keyed if idempotency.is_keyed(request) else _submit_once
    data = body.here(request, services.settings.max_body_bytes)
    if data is not None:
        return await run(request, services, data)
    async with services.body_bytes.room() as room:
        data = await body.read(request, services.settings.max_body_bytes, room)
        if len(data) < body.LARGE_BYTES:
            return await run(request, services, data)
        async with services.large_bodies:
            return await run(request, services, data)


async def _submit_once(request: Request, services: Services, data: bytes) -> Whole:
    job = await body.worked_on(len(data), job_of, data, text_limit(services.settings))
    row = await services.jobs.submit(
        caller_of(request).project_id, job, request_id=request.scope["request_id"]
    )
    request.scope["job_id"] = row.id  # for the log
    return services.first_views.answer(row, await services.waiting.first_outlook(row))


def accepted(request: Request, row: NewJob, outlook: Outlook) -> Answer:
    """202 with the new job, to be kept."""
    name = name_of(row.id)
    url = f"{request.scope['public_url']}{render.PREFIX}/jobs/{name.decode()}"
    return _accepted(url, row, outlook, services_of(request).first_views.of(row, outlook, name))


def _accepted(url: str, row: JobRow, outlook: Outlook, view: bytes) -> Answer:
    headers = {
        "Location": url,
        "ETag": render.etag(row, outlook),
        **render.retry_after(row, outlook),
    }
    return Answer(202, headers, view)


async def _until_final(request: Request, job_id: UUID, seconds: int) -> Row[Any] | None:
    """The job as it then is. It is stored: nothing that goes wrong in the wait may look as if it were not."""
    try:
        return await wait_until(request, job_id, is_final, seconds)
    except ClientDisconnect:
        raise
    except Exception as error:
        if is_unavailable(error):
            services_of(request).database.outage.failed(error)
        else:
            log.exception("the wait for job %s ended early", job_id)
        return None


async def _submit_keyed(request: Request, services: Services, data: bytes) -> Whole:
    """A submit that may have come before. What is not allowed leaves its key free."""
    parsed = await body.worked_on(len(data), body.parse, data)
    claim = await body.worked_on(len(data), idempotency.claim_of, request, data, parsed)

    async def work() -> Answer:
        limit = text_limit(services.settings)
        job = await body.worked_on(len(data), checked, parsed, len(data), limit)
        return await store_keyed(
            request,
            claim,
            await services.jobs.draft(claim.project_id, job, request_id=request.scope["request_id"]),
        )

    return await idempotency.answered(request, claim, work)


async def store_keyed(request: Request, claim: Claim, draft: Draft) -> Answer:
    """Stores a draft under the key, and with it the answer that the key gives from then on."""
    services = services_of(request)
    # Not in the transaction: it may have to ask.
    in_queue = await services.waiting.reason_in(draft.row["queue"])

    def answer_of(row: NewJob) -> Answer:
        return accepted(request, row, services.waiting.of_new(row, in_queue))

    row, answer = await services.jobs.submit_keyed(draft, claim, answer_of)
    request.scope["job_id"] = row.id  # for the log
    return answer


def text_limit(settings: Settings) -> int:
    """Bytes at most of a job without pictures: the longest prompt with every character as an escape, and the rest."""
    return min(settings.max_body_bytes, 6 * settings.max_prompt_chars + 1_000_000)


def job_of(data: bytes, limit: int) -> JobSubmit:
    """The job that a body asks for.

    Args:
        limit: bytes at most, where it has no pictures.

    Raises:
        BadRequest: it is no JSON.
        PayloadTooLarge: it is over the limit.
        ValidationFailed: something in it is not allowed.
    """
    return checked(body.parse(data), len(data), limit)


def checked(parsed: Any, size: int, limit: int) -> JobSubmit:
    """The job that a parsed body of this size asks for; see ``job_of``."""
    refuse_large(parsed, size, limit)
    try:
        return JobSubmit.model_validate(parsed)
    except ValidationError as error:
        raise ValidationFailed(
            "The job is not allowed; errors names each field.", errors=field_errors(error)
        ) from None


def refuse_large(parsed: Any, size: int, limit: int) -> None:
    """Raises: PayloadTooLarge: a job of this size must have pictures, and has none."""
    if size > limit and not _has_pictures(parsed):
        raise PayloadTooLarge(f"The body is over the limit of {limit:,} bytes for a job without pictures.")


def _has_pictures(parsed: Any) -> bool:
    value = parsed.get("input") if isinstance(parsed, dict) else None
    return isinstance(value, dict) and bool(value.get("input_images"))


@router.get(
    "/summary",
    response_model=JobsSummary,
    summary="Count jobs",
    responses=answers(401, 403, 422, 503),
)
async def summary(request: Request, query: Annotated[SummaryQuery, Query()]) -> Response:
    """How many jobs there are in each state and of each model, why they wait, and what they cost.

    The times bound final jobs only, in whole hours; what is queued or running is always counted.
    """
    return render.JsonResponse(await services_of(request).lists.summary(caller_of(request).project_id, query))


@router.get(
    "/{job_id}",  # noqa: FAST003  read by hand
    response_model=JobDetail | JobView,
    summary="Look at a job",
    responses=answers(401, 403, 404, 422, 503, success={200: JOB_HEADERS}, not_modified=True),
    openapi_extra={"parameters": GET_PARAMETERS},
)
async def get(request: Request) -> Response:
    """Cheap to poll: send the `ETag` back as `If-None-Match` and wait as long as `Retry-After` says.

    With `Prefer: wait=N` the answer comes when the job is final, or after N seconds; with `If-None-Match` as well,
    already when the job has changed.
    """
    # Parameters are read by hand: declared ones would cost a third of the whole poll.
    services = services_of(request)
    job_id, wait = job_id_of(request.path_params["job_id"]), request.headers.get("prefer")
    if wait is not None and (seconds := prefer.wait_seconds(wait)) is not None:
        row = await _waited(request, job_id, seconds)
        applied: Mapping[str, str] = prefer.applied(seconds)
    else:
        row, applied = await services.jobs.get(caller_of(request).project_id, job_id), _NO_HEADERS
    outlook = await services.waiting.outlook(row)
    headers = {"Cache-Control": "private, no-cache", **render.retry_after(row, outlook), **applied}
    view = None
    if request.scope["query_string"] and _wants_attempts(request):
        attempts = await services.jobs.attempts(row.id)
        shown = [render.attempt_view(attempt) for attempt in attempts]
        view = render.dumps(render.job_view(row, outlook, request.scope["public_url"]) | {"attempts": shown})
        # Attempts change without a new version: being sent is no event.
        news = render.dumps([render.etag(row, outlook), shown])
        headers["ETag"] = f'W/"{blake2b(news, digest_size=12).hexdigest()}"'
    else:
        headers["ETag"] = render.etag(row, outlook)
    if conditional.matches(request.headers.get("if-none-match"), headers["ETag"]):
        return Whole(304, headers)
    if view is None:
        view = render.dumps(render.job_view(row, outlook, request.scope["public_url"]))
    return render.JsonResponse(view, headers=headers)


async def _waited(request: Request, job_id: UUID, seconds: int) -> Row[Any]:
    services = services_of(request)
    # With attempts the ETag is of another kind: then it is waited for the final state.
    known = None if request.scope["query_string"] else request.headers.get("if-none-match")

    async def is_news(row: Row[Any]) -> bool:
        outlook = Outlook(await services.waiting.reason(row))
        return row.state in FINAL or render.changed_since(known or "", row, outlook)

    with services.hub.place():
        return await wait_until(request, job_id, is_news if known else is_final, seconds)


def _wants_attempts(request: Request) -> bool:
    wanted = request.query_params.get("include")
    if wanted not in {None, "attempts"}:
        error = FieldError("?include", "not_allowed", "must be attempts, or be left out", ["attempts"])
        raise ValidationFailed("The query is not allowed; errors names each parameter.", errors=[error])
    return wanted is not None


@router.get(
    "",
    response_model=JobPage,
    summary="List jobs",
    responses=answers(400, 401, 403, 422, 503),
)
async def list_jobs(request: Request, query: Annotated[JobQuery, Query()]) -> Response:
    """Newest first. A page ends where its cursor says, whatever is submitted meanwhile.

    Where what is asked for is rare, a page may hold fewer jobs than its `limit`, even none, and still have a
    `next_cursor`: go on until that is null.
    """
    known_words(query, "?")
    services = services_of(request)
    rows, cursor = await services.lists.page(caller_of(request).project_id, query)
    public_url = request.scope["public_url"]
    items = [render.job_view(row, await services.waiting.outlook(row), public_url) for row in rows]
    return render.JsonResponse({"items": items, "next_cursor": cursor})


@router.post(
    "/cancel",
    response_model=JobsCancelled,
    summary="Cancel many jobs",
    responses=answers(400, 401, 403, 408, 413, 415, 422, 503),
    openapi_extra={"requestBody": CANCEL_BODY},
)
async def cancel_all(request: Request) -> Response:
    """Cancels the queued and running jobs that a filter lets through; `dry_run` only counts them.

    Safe to send again, and to be sent again where it answers with `more`.
    """
    services = services_of(request)
    async with services.body_bytes.room() as room:
        data = await body.read(request, _MAX_FILTER_BYTES, room)
    try:
        wanted = JobsCancel.model_validate(body.parse(data))
    except ValidationError as error:
        raise ValidationFailed(
            "The request is not allowed; errors names each field.", errors=field_errors(error)
        ) from None
    known_words(wanted.filter, "/filter/")
    return render.JsonResponse(await services.lists.cancel_all(caller_of(request).project_id, wanted))


@router.post(
    "/{job_id}/cancel",
    response_model=CancelReceipt,
    summary="Cancel a job",
    responses=answers(401, 403, 404, 503),
)
async def cancel(request: Request, job_id: JobId) -> Response:
    """A queued job ends at once; of a running one the worker is told. Cancelling again, or too late, is no error."""
    services = services_of(request)
    found = request.scope["job_id"] = job_id_of(job_id)  # for the log, too
    cancelled = await services.jobs.cancel(caller_of(request).project_id, found)
    outlook = await services.waiting.outlook(cancelled.job)
    return render.JsonResponse(
        {
            "job": render.job_view(cancelled.job, outlook, request.scope["public_url"]),
            "outcome": cancelled.outcome,
            "provider_called": cancelled.provider_called,
            "cost_usd": cancelled.job.cost_usd,
        }
    )


@router.delete(
    "/{job_id}",
    status_code=204,
    summary="Delete a job",
    responses=answers(401, 403, 404, 409, 503),
)
async def delete(request: Request, job_id: JobId) -> Response:
    """Deletes a final job with its attempts, events and pictures; afterwards it is as if it had never been."""
    found = request.scope["job_id"] = job_id_of(job_id)  # for the log, too
    await services_of(request).jobs.delete(caller_of(request).project_id, found)
    return Response(status_code=204)


@router.get(
    "/{job_id}/result",
    response_model=JobResult,
    summary="Fetch a job's result",
    responses=answers(401, 403, 404, 409, 503, success={200: RESULT_HEADERS}, not_modified=True),
)
async def result(request: Request, job_id: JobId) -> Response:
    """What a succeeded job made; 409 says why there is nothing (yet). Pictures have the `url` of their bytes."""
    found = job_id_of(job_id)
    row = await services_of(request).jobs.result(caller_of(request).project_id, found)
    headers = {"Cache-Control": "private, no-cache", "ETag": f'"{row.version}"'}
    if conditional.matches(request.headers.get("if-none-match"), headers["ETag"]):
        return Whole(304, headers)
    view = {"job_id": found, "kind": row.kind, "result": render.result_view(row, request.scope["public_url"])}
    return render.JsonResponse(view, headers=headers)


def job_id_of(value: str) -> UUID:
    """Raises: NotFound: it has not the form of an id."""
    found = uuid_of(value)
    if found is None:
        raise NotFound("There is no such job in this project; an id is a UUID.", code="job_not_found")
    return found


def known_words(wanted: JobFilter, prefix: str) -> None:
    """Raises: ValidationFailed: there is no such kind or model."""
    for name, value, allowed in (
        ("kind", wanted.kind, list(KINDS)),
        ("model", wanted.model, list(catalog())),
    ):
        if value is not None and value not in allowed:
            error = FieldError(
                f"{prefix}{name}", "not_allowed", f"must be one of: {', '.join(allowed)}", allowed
            )
            raise ValidationFailed("The filter is not allowed; errors names each field.", errors=[error])


#: Those that nearly all requests are for, and that take nothing but the request.
DIRECT = [
    route for route in router.routes if isinstance(route, ProjectRoute) and route.endpoint in {submit, get}
]
