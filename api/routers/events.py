"""Events as they happen: server-sent events, with replay."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from api.deps import ProjectRoute, caller_of, services_of
from api.openapi import EVENT_PARAMETERS, JOB_ID_PARAMETER, JOB_STREAM, STREAM, answers
from api.routers.jobs import job_id_of
from api.streams import JobStream, ProjectStream
from api.text_stream import TextStream
from shared.events.service import invalid_last_event_id
from shared.jobs.status import FINAL

router = APIRouter(prefix="/api/v1", tags=["events"], route_class=ProjectRoute)

#: PostgreSQL's bigint has no more digits than this; some of those with as many are too large.
_DIGITS = 18


@router.get(
    "/jobs/{job_id}/events",  # noqa: FAST003  read by hand
    response_class=Response,
    summary="Follow a job",
    responses={
        **answers(400, 401, 403, 404, 422, 503),
        **JOB_STREAM,
        204: {"description": "Nothing is to come"},
    },
    openapi_extra={"parameters": [JOB_ID_PARAMETER, *EVENT_PARAMETERS]},
)
async def of_job(request: Request) -> Response:
    """The job's events from its first one on, as server-sent events; the stream ends after the final one.

    Between them, a job with `stream` tells its text as it is made, in events named `delta`, which have no `id` and are best
    effort; the pieces of the attempt that succeeds come to the whole text before its final event, whatever was lost.

    With `Last-Event-ID`, those after that one; 204 where the job is final and there are none, which tells a
    browser's EventSource not to come back.
    """
    services, after = services_of(request), await last_event_id(request)
    job_id = job_id_of(request.path_params["job_id"])
    job = await services.jobs.get(caller_of(request).project_id, job_id)
    request.scope["job_id"] = job_id  # for the log
    if after and job.state in FINAL and not await services.events.of_job(job_id, after):
        return Response(status_code=204)
    return TextStream(request, job, after) if job.stream else JobStream(request, job_id, after)


@router.get(
    "/events",
    response_class=Response,
    summary="Follow everything",
    responses={**answers(400, 401, 403, 422, 503), **STREAM},
    openapi_extra={"parameters": EVENT_PARAMETERS},
)
async def of_project(request: Request) -> Response:
    """All events of the project's jobs from now on, or after `Last-Event-ID`, as server-sent events, without an end.

    Each is sent once and in order, across reconnects and restarts; `last_event_id=0` begins with the oldest. What had
    happened when the answer began is in `GET /jobs` by then; everything later is in the stream.
    """
    return ProjectStream(request, caller_of(request).project_id, await last_event_id(request))


async def last_event_id(request: Request) -> int | None:
    """The header wins: a client that comes back still has its first address.

    Raises:
        BadRequest: it is none of our ids.
    """
    given = [request.headers.get("last-event-id"), request.query_params.get("last_event_id")]
    numbers = [number for number in given if number]
    if not all(number.isascii() and number.isdigit() and len(number) <= _DIGITS for number in numbers):
        raise invalid_last_event_id("it is no whole number")
    if not numbers:
        return None
    await services_of(request).events.check(int(numbers[0]))
    return int(numbers[0])
