"""Every error as problem+json (RFC 9457), and the list of codes that ``/docs`` shows."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response

from api.methods import methods_of
from shared.db import is_unavailable, no_writes
from shared.errors import (
    MAX_ERRORS,
    AppError,
    FieldError,
    Unavailable,
    ValidationFailed,
    field_error,
    pointer,
)

if TYPE_CHECKING:
    from api.deps import Services

log = logging.getLogger(__name__)

PROBLEM = "application/problem+json"
_RETRY_SECONDS = 2
_UNAVAILABLE = {
    # A commit whose reply was lost may have gone through: no promise that nothing was changed.
    None: "The database cannot be reached at the moment. Try again; look first whether a change went through.",
    "read_only": "The database is read-only at the moment. Nothing was changed; try again. Jobs can be looked at.",
    "full": "The database's disk is full. Nothing was changed; try again. Jobs can be looked at.",
}

#: Every code that a problem can have: its status, and what to do about it.
CODES: dict[str, tuple[int, str]] = {
    "bad_request": (400, "The request could not be read; `detail` says why."),
    "invalid_json": (400, "The body is not JSON; `detail` names line and column."),
    "invalid_form": (400, "The body is no form as its Content-Type says; `detail` says why."),
    "invalid_last_event_id": (400, "Begin without `Last-Event-ID`, then use the `id` of the last event."),
    "invalid_cursor": (400, "Start again without `cursor`, then use `next_cursor` as it was given."),
    "invalid_idempotency_key": (
        400,
        "Send one `Idempotency-Key` of 1 to 255 visible ASCII characters, bare or in double quotes.",
    ),
    "unauthenticated": (401, "Send `Authorization: Bearer <API key>`."),
    "invalid_api_key": (401, "The key is malformed or unknown. Make one with `scripts/keys create`."),
    "revoked_api_key": (401, "The key was revoked. Make another one."),
    "expired_api_key": (401, "The key's time is over. Make another one."),
    "forbidden": (403, "The key may not do this."),
    "insufficient_scope": (403, "Use a key with the scope that `detail` names."),
    "not_found": (404, "Nothing is at this address; look for a misspelling."),
    "batch_not_found": (404, "No batch of this project has the id."),
    "job_not_found": (404, "No job of this project has the id."),
    "artifact_not_found": (404, "No artifact of this project has the id."),
    "upload_not_found": (
        404,
        "No upload of this project has the id, or it has expired. Upload the file again.",
    ),
    "model_not_found": (404, "No model has this alias; `GET /api/v1/models` lists them."),
    "kind_not_found": (404, "No kind has this name; `GET /api/v1/kinds` lists them."),
    "webhook_not_found": (404, "No webhook of this project has the id."),
    "delivery_not_found": (404, "No delivery of this project has the id, or it was kept for its time."),
    "method_not_allowed": (405, "The header `Allow` names the methods that the address takes."),
    "request_timeout": (408, "Send the body faster, or again."),
    "conflict": (409, "The state of the thing forbids it; `detail` says which."),
    "job_not_finished": (409, "There is no result yet: poll the job until its state is final."),
    "job_not_final": (409, "Only a final job can be deleted: cancel it, and wait until its state is final."),
    "job_failed": (409, "There is no result: the job failed, and its `error` says why."),
    "job_cancelled": (409, "There is no result: the job was cancelled."),
    "job_expired": (409, "There is no result: nobody started the job before its `expires_at`."),
    "too_many_webhooks": (409, "The project has as many webhooks as it may have: delete one first."),
    "webhook_not_active": (409, "The webhook is paused or disabled: `PATCH` it with `paused: false` first."),
    "idempotency_key_in_use": (
        409,
        "The first request with this `Idempotency-Key` is still under way. Send it again after `Retry-After` seconds.",
    ),
    "upload_in_use": (409, "A job refers to the upload; `detail` names one. Delete its jobs first."),
    "gone": (410, "It existed and was removed."),
    "payload_too_large": (413, "Send less; `detail` names the limit."),
    "too_many_jobs": (413, "Send the jobs in several batches; `detail` names the limit."),
    "unsupported_media_type": (415, "Send `Content-Type: application/json`, uncompressed, in UTF-8."),
    "not_a_form": (415, "Send `Content-Type: multipart/form-data`, uncompressed."),
    "unsupported_image_type": (
        415,
        "The file is of a type that no model takes; `detail` lists those that are.",
    ),
    "range_not_satisfiable": (416, "The range lies outside; `Content-Range` gives the size."),
    "validation_failed": (422, "Something in the request is not allowed; `errors` names each field."),
    "unknown_kind": (422, "No such kind of job; `errors` lists those that exist."),
    "unknown_model": (422, "No such model for this kind; `errors` lists those that exist."),
    "webhook_secret_needed": (
        422,
        "Before the first `webhook_url`, `POST /api/v1/webhooks/job-secret` makes the secret that signs.",
    ),
    "idempotency_key_reused": (
        422,
        "The `Idempotency-Key` came with another request before. Use a new key for a new request.",
    ),
    "unknown_parameter": (
        422,
        "The query has a parameter that does not exist here; `errors` lists those that do.",
    ),
    "headers_too_large": (431, "Send shorter headers; `detail` names the limit."),
    "rate_limited": (429, "Wait as long as `Retry-After` says."),
    "internal_error": (500, "A fault of ours. The log has it under `request_id`."),
    "unavailable": (503, "Something that we need is away. Try again after `Retry-After` seconds."),
    "too_many_waiting": (
        503,
        "Too many requests wait for jobs already: poll, or try again after `Retry-After`.",
    ),
    "overloaded": (503, "Too many large requests are under way. Try again after `Retry-After` seconds."),
}


class ProblemField(BaseModel):
    """One thing wrong with one field."""

    pointer: str = Field(
        description="JSON pointer into the body; `?name` for a query parameter.", examples=["/input/size"]
    )
    code: str = Field(description="Stable word for programs.", examples=["not_allowed"])
    message: str = Field(description="What is wrong and what would be right.")
    allowed: list[Any] | None = Field(
        default=None, description="What would have been accepted, where that can be listed."
    )
    index: int | None = Field(default=None, description="Of a batch: which of its jobs, from 0.")
    line: int | None = Field(
        default=None, description="Of a JSONL body: the line, from 1; `pointer` is then one into that line."
    )


class Problem(BaseModel):
    """An error (RFC 9457)."""

    type: str = Field(
        description="Address of the code's description.", examples=["/docs#error-validation_failed"]
    )
    title: str = Field(examples=["Validation failed"])
    status: int = Field(examples=[422])
    detail: str = Field(description="What was wrong with this request and what to do.")
    instance: str = Field(description="The path that was asked for.", examples=["/api/v1/jobs"])
    code: str = Field(description="Stable word for programs.", examples=["validation_failed"])
    request_id: str = Field(description="Names this request in our log; also in `X-Request-ID`.")
    errors: list[ProblemField] | None = Field(
        default=None, description="The fields at fault, where it is fields."
    )


def install(app: FastAPI) -> None:
    """Renders what routes and the framework raise; what nobody expected is the middleware's business."""
    app.exception_handler(AppError)(_on_app_error)
    app.exception_handler(RequestValidationError)(_on_request_validation)
    app.exception_handler(HTTPException)(_on_http_exception)


def problem(scope: Mapping[str, Any], error: AppError) -> Response:
    """The answer to a request that went wrong."""
    return _response(
        scope,
        error.status,
        error.title,
        error.code,
        error.detail,
        errors=[entry.as_json() for entry in error.errors[:MAX_ERRORS]],
        more_errors=len(error.errors) > MAX_ERRORS,
        headers=error.headers,
        retry_after=error.retry_after,
    )


def unexpected(scope: Mapping[str, Any], error: Exception) -> Response:
    """The answer where something raised what nobody foresaw: 503 when the database is away, else 500."""
    if is_unavailable(error):
        services: Services = scope["app"].services
        services.database.outage.failed(error)
        return problem(scope, Unavailable(_UNAVAILABLE[no_writes(error)], retry_after=_RETRY_SECONDS))
    log.error("unexpected %s", type(error).__name__, exc_info=error)
    return problem(
        scope, AppError("A fault of ours, not of your request. The log has it under the request id.")
    )


def _on_app_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, AppError)
    return problem(request.scope, error)


def _on_request_validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    errors = []
    for part in error.errors()[: MAX_ERRORS + 1]:
        source, *location = part["loc"]
        where = f"?{location[0]}" if source == "query" and location else pointer(location)
        errors.append(field_error(part, where))
    unknown = all(entry.code == "extra_forbidden" for entry in errors)
    return problem(
        request.scope,
        ValidationFailed(
            "The query is not allowed; errors names each parameter.",
            code="unknown_parameter" if unknown else None,
            errors=errors,
        ),
    )


def _on_http_exception(request: Request, error: Exception) -> Response:
    """What the framework raises: no such address, or another method."""
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    path = request.url.path
    if error.status_code == 404:
        hint = (
            f" Leave out the slash at its end: {path.rstrip('/') or '/'}."
            if len(path) > 1 and path.endswith("/")
            else ""
        )
        detail = f"Nothing is at this address.{hint} /docs lists what there is."
        return _response(request.scope, 404, "Not found", "not_found", detail, headers=headers)
    if error.status_code == 405:
        headers["Allow"] = ", ".join(methods_of(request.app.router.routes, request))
        detail = f"This address takes {headers['Allow']}."
        return _response(
            request.scope, 405, "Method not allowed", "method_not_allowed", detail, headers=headers
        )
    title = HTTPStatus(error.status_code).phrase
    code = "internal_error" if error.status_code >= 500 else "bad_request"
    return _response(request.scope, error.status_code, title, code, str(error.detail), headers=headers)


def _response(
    scope: Mapping[str, Any],
    status: int,
    title: str,
    code: str,
    detail: str,
    *,
    errors: list[dict[str, Any]] | None = None,
    more_errors: bool = False,
    headers: Mapping[str, str] | None = None,
    retry_after: int | None = None,
) -> Response:
    body: dict[str, Any] = {
        "type": f"{scope.get('public_url', '')}/docs#error-{code}",
        "title": title,
        "status": status,
        "detail": _short(detail, 1000),
        "instance": _short(scope.get("path", ""), 200),
        "code": code,
        "request_id": scope.get("request_id", ""),
    }
    if errors:
        body["errors"] = errors
        if more_errors:
            body["detail"] += f" (the first {MAX_ERRORS} errors)"
    headers = {"Cache-Control": "no-store", **(headers or {})}
    if retry_after is not None:
        headers["Retry-After"] = str(retry_after)
    return Response(orjson.dumps(body), status, headers=headers, media_type=PROBLEM)


def _short(text: str, length: int) -> str:
    """Cut, and with what is no Unicode replaced: a path can hold anything."""
    text = text if len(text) <= length else text[: length - 1] + "…"
    return text.encode("utf-8", "replace").decode()


__all__ = ["CODES", "PROBLEM", "FieldError", "Problem", "install", "problem", "unexpected"]
