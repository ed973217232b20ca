"""Webhooks: endpoints, the secrets that sign what they get, and the ledger of what was sent."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar
from uuid import UUID

import orjson
from fastapi import APIRouter, Path, Query, Request
from pydantic import BaseModel, ValidationError
from sqlalchemy import Row
from starlette.responses import Response

from api import body, render
from api.deps import BothScopesRoute, caller_of, services_of, uuid_of
from api.openapi import answers, json_body, location
from shared.errors import NotFound, ValidationFailed, field_errors
from shared.webhooks.schemas import (
    DeliveryDetail,
    DeliveryPage,
    DeliveryQuery,
    DeliveryView,
    Redeliver,
    Redelivered,
    SecretCreated,
    SecretRotate,
    SecretView,
    WebhookCreate,
    WebhookCreated,
    WebhookList,
    WebhookUpdate,
    WebhookView,
)

router = APIRouter(prefix="/api/v1/webhooks", tags=["webhooks"], route_class=BothScopesRoute)

_MAX_BYTES = 50_000
Wanted = TypeVar("Wanted", bound=BaseModel)
WebhookId = Annotated[str, Path(description="The endpoint's id.", json_schema_extra={"format": "uuid"})]
DeliveryId = Annotated[str, Path(description="The delivery's id.", json_schema_extra={"format": "uuid"})]
_URL = "https://example.com/plantain"


@router.post(
    "",
    status_code=201,
    response_model=WebhookCreated,
    summary="Make a webhook",
    responses=answers(400, 401, 403, 408, 409, 413, 415, 422, 503, success={201: location("the webhook")}),
    openapi_extra=json_body("WebhookCreate", {"url": _URL, "events": ["job.succeeded", "job.failed"]}),
)
async def create(request: Request) -> Response:
    """An endpoint that gets the project's events from now on, signed as Standard Webhooks 1.0 says.

    The answer has its `secret`, this once. What is sent is `{"type", "timestamp", "data"}`, where `data` is the job as
    `GET /jobs/{id}` shows it when the message is made. It is sent until it is answered with 2xx, up to ten times within
    about three days, always under the same `webhook-id`; messages may come more than once and in any order.
    """
    wanted = await _wanted(request, WebhookCreate)
    row, secret = await services_of(request).webhooks.create(caller_of(request).project_id, wanted)
    where = f"{request.scope['public_url']}{render.PREFIX}/webhooks/{row.id}"
    return render.JsonResponse(_view(row) | {"secret": secret}, 201, {"Location": where})


@router.get("", response_model=WebhookList, summary="List webhooks", responses=answers(401, 403, 503))
async def list_all(request: Request) -> Response:
    """All of the project's endpoints, the oldest first."""
    rows = await services_of(request).webhooks.all(caller_of(request).project_id)
    return render.JsonResponse({"items": [_view(row) for row in rows]})


@router.get(
    "/job-secret",
    response_model=SecretView,
    summary="Look at the jobs' secret",
    responses=answers(401, 403, 503),
)
async def job_secret(request: Request) -> Response:
    """When the secret was made that signs what is sent to the `webhook_url` of jobs; null where there is none yet."""
    row = await services_of(request).webhooks.job_secret(caller_of(request).project_id)
    return render.JsonResponse(_secret(row))


@router.post(
    "/job-secret",
    status_code=201,
    response_model=SecretCreated,
    summary="Make or rotate the jobs' secret",
    responses=answers(400, 401, 403, 408, 413, 415, 422, 503),
    openapi_extra=json_body("SecretRotate", {"overlap": 86_400}, required=False),
)
async def rotate_job_secret(request: Request) -> Response:
    """The secret that signs what is sent to the `webhook_url` of jobs; the answer has it, this once.

    Where there was one, both sign for `overlap` seconds.
    """
    wanted = await _wanted(request, SecretRotate, optional=True)
    row, secret = await services_of(request).webhooks.rotate_job_secret(
        caller_of(request).project_id, wanted.overlap
    )
    return render.JsonResponse(_secret(row) | {"secret": secret}, 201)


@router.get(
    "/deliveries",
    response_model=DeliveryPage,
    summary="List deliveries",
    responses=answers(401, 403, 422, 503),
)
async def deliveries(request: Request, query: Annotated[DeliveryQuery, Query()]) -> Response:
    """What was sent, is being sent and will be, newest first; kept for 30 days unless the server says otherwise."""
    rows, cursor = await services_of(request).webhooks.deliveries(caller_of(request).project_id, query)
    return render.JsonResponse({"items": [_delivery(row) for row in rows], "next_cursor": cursor})


@router.get(
    "/deliveries/{delivery_id}",
    response_model=DeliveryDetail,
    summary="Look at a delivery",
    responses=answers(401, 403, 404, 503),
)
async def delivery(request: Request, delivery_id: DeliveryId) -> Response:
    """What is sent and what came of each attempt: status, time and the first bytes of the answer."""
    found = _delivery_id(delivery_id)
    row, attempts = await services_of(request).webhooks.delivery(caller_of(request).project_id, found)
    view = _delivery(row) | {
        "body": orjson.loads(row.body),
        "attempts": [dict(attempt._mapping) for attempt in attempts],  # noqa: SLF001  SQLAlchemy's documented name
    }
    return render.JsonResponse(view)


@router.post(
    "/deliveries/{delivery_id}/redeliver",
    status_code=202,
    response_model=DeliveryView,
    summary="Send a delivery again",
    responses=answers(401, 403, 404, 409, 503),
)
async def redeliver(request: Request, delivery_id: DeliveryId) -> Response:
    """At once, whatever came of it before, under the same `webhook-id`, and on from the beginning of the schedule."""
    found = _delivery_id(delivery_id)
    row = await services_of(request).webhooks.redeliver(caller_of(request).project_id, found)
    return render.JsonResponse(_delivery(row), 202)


@router.get(
    "/{webhook_id}",
    response_model=WebhookView,
    summary="Look at a webhook",
    responses=answers(401, 403, 404, 503),
)
async def get(request: Request, webhook_id: WebhookId) -> Response:
    row = await services_of(request).webhooks.get(caller_of(request).project_id, _webhook_id(webhook_id))
    return render.JsonResponse(_view(row))


@router.patch(
    "/{webhook_id}",
    response_model=WebhookView,
    summary="Change, pause or resume a webhook",
    responses=answers(400, 401, 403, 404, 408, 413, 415, 422, 503),
    openapi_extra=json_body("WebhookUpdate", {"paused": True}),
)
async def update(request: Request, webhook_id: WebhookId) -> Response:
    """What is left out stays. Another `url` gets what is not delivered yet, too.

    While it is paused, deliveries are made and wait, for as long as deliveries are kept (30 days). `paused: false` sends
    them, and enables one that was disabled: what happened while it was disabled is not sent.
    """
    wanted = await _wanted(request, WebhookUpdate)
    row = await services_of(request).webhooks.update(
        caller_of(request).project_id, _webhook_id(webhook_id), wanted
    )
    return render.JsonResponse(_view(row))


@router.delete(
    "/{webhook_id}",
    status_code=204,
    summary="Delete a webhook",
    responses=answers(401, 403, 404, 503),
)
async def delete(request: Request, webhook_id: WebhookId) -> Response:
    """With its deliveries, also those that were not sent yet."""
    await services_of(request).webhooks.delete(caller_of(request).project_id, _webhook_id(webhook_id))
    return Response(status_code=204)


@router.post(
    "/{webhook_id}/secret",
    status_code=201,
    response_model=SecretCreated,
    summary="Rotate a webhook's secret",
    responses=answers(400, 401, 403, 404, 408, 413, 415, 422, 503),
    openapi_extra=json_body("SecretRotate", {"overlap": 86_400}, required=False),
)
async def rotate(request: Request, webhook_id: WebhookId) -> Response:
    """A new secret, shown this once. For `overlap` seconds the old one signs, too: a message then has two signatures."""
    found, wanted = _webhook_id(webhook_id), await _wanted(request, SecretRotate, optional=True)
    row, secret = await services_of(request).webhooks.rotate(
        caller_of(request).project_id, found, wanted.overlap
    )
    return render.JsonResponse(_secret(row) | {"secret": secret}, 201)


@router.post(
    "/{webhook_id}/ping",
    status_code=202,
    response_model=DeliveryView,
    summary="Send a test message",
    responses=answers(401, 403, 404, 409, 503),
)
async def ping(request: Request, webhook_id: WebhookId) -> Response:
    """A message of the type `webhook.test`, whatever the endpoint's `events`; its delivery shows what came of it."""
    row = await services_of(request).webhooks.ping(caller_of(request).project_id, _webhook_id(webhook_id))
    return render.JsonResponse(_delivery(row), 202)


@router.post(
    "/{webhook_id}/redeliver",
    status_code=202,
    response_model=Redelivered,
    summary="Send many deliveries again",
    responses=answers(400, 401, 403, 404, 408, 409, 413, 415, 422, 503),
    openapi_extra=json_body(
        "Redeliver", {"created_after": "2030-01-31T12:00:00Z", "created_before": "2030-01-31T18:00:00Z"}
    ),
)
async def redeliver_many(request: Request, webhook_id: WebhookId) -> Response:
    """Those of the endpoint that were made in a range of time and failed (or `state`), up to 1,000 in one request."""
    found, wanted = _webhook_id(webhook_id), await _wanted(request, Redeliver)
    done, cursor = await services_of(request).webhooks.redeliver_many(
        caller_of(request).project_id, found, wanted
    )
    return render.JsonResponse({"redelivered": done, "next_cursor": cursor}, 202)


async def _wanted(request: Request, model: type[Wanted], *, optional: bool = False) -> Wanted:
    """The request's body.

    Args:
        optional: no body is an empty object.

    Raises: BadRequest, ValidationFailed and what ``body.read`` does.
    """
    data = b"{}"
    given = request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers
    if given or not optional:
        async with services_of(request).body_bytes.room() as room:
            data = await body.read(request, _MAX_BYTES, room)
    try:
        return model.model_validate(body.parse(data))
    except ValidationError as error:
        raise ValidationFailed(
            "The request is not allowed; errors names each field.", errors=field_errors(error)
        ) from None


def _webhook_id(value: str) -> UUID:
    """Raises: NotFound: it has not the form of an id."""
    found = uuid_of(value)
    if found is None:
        raise NotFound("There is no such webhook in this project; an id is a UUID.", code="webhook_not_found")
    return found


def _delivery_id(value: str) -> UUID:
    """Raises: NotFound: it has not the form of an id."""
    found = uuid_of(value)
    if found is None:
        raise NotFound(
            "There is no such delivery in this project; an id is a UUID.", code="delivery_not_found"
        )
    return found


def _view(row: Row[Any]) -> dict[str, Any]:
    return {
        "id": row.id,
        "url": row.url,
        "events": row.events,
        "description": row.description,
        "paused": row.paused_at is not None,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
        "disabled_at": row.disabled_at,
        "disabled_reason": row.disabled_reason,
        "failing_since": row.failing_since,
        **_secret(row),
    }


def _secret(row: Row[Any] | None) -> dict[str, Any]:
    return {
        "secret_created_at": row.secret_created_at if row else None,
        "previous_secret_until": row.previous_secret_until if row else None,
    }


def _delivery(row: Row[Any]) -> dict[str, Any]:
    return {
        "id": row.id,
        "webhook_id": None if row.of_job else row.endpoint_id,
        "job_id": row.job_id,
        "type": row.type,
        "url": row.url,
        "state": row.state,
        "attempt": row.attempt,
        "created_at": row.created_at,
        "next_attempt_at": row.due_at if row.state == "pending" else None,
        "finished_at": row.finished_at,
        "last_status": row.last_status,
        "last_error": row.last_error,
    }
