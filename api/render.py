"""Answers built by hand: a dictionary and orjson, without a second validation of what the database already guards."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import orjson
from sqlalchemy import Row
from starlette.responses import Response

from shared.jobs.status import FINAL, WaitingReason

PREFIX = "/api/v1"
_RETRY_SECONDS = 1
_MAX_RETRY_SECONDS = 60


def json_response(
    body: Any,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    *,
    media_type: str = "application/json",
) -> Response:
    """JSON that nobody may keep, unless the headers say otherwise."""
    data = body if isinstance(body, bytes) else dumps(body)
    return Response(
        data, status, headers={"Cache-Control": "no-store", **(headers or {})}, media_type=media_type
    )


def dumps(body: Any) -> bytes:
    return orjson.dumps(body, default=_default, option=orjson.OPT_UTC_Z)


def job_view(row: Row[Any], waiting: WaitingReason | None, public_url: str) -> dict[str, Any]:
    """``shared.jobs.schemas.JobView`` of a row of ``queries.VIEW``."""
    url = f"{public_url}{PREFIX}/jobs/{row.id}"
    return {
        "id": row.id,
        "kind": row.kind,
        "model": row.model,
        "priority": row.priority,
        "state": row.state,
        "version": row.version,
        "waiting_reason": waiting,
        "waiting_until": row.waiting_until,
        "attempt": row.attempt,
        "max_attempts": row.max_attempts,
        "timeout": row.timeout_seconds,
        "on_unknown": row.on_unknown,
        "created_at": row.created_at,
        "scheduled_at": row.scheduled_at,
        "started_at": row.started_at,
        "finished_at": row.finished_at,
        "expires_at": row.expires_at,
        "cancel_requested_at": row.cancel_requested_at,
        "provider": row.provider,
        "upstream_model": row.upstream_model,
        "model_version": row.model_version,
        "usage": row.usage,
        "cost_usd": row.cost_usd,
        "error": row.error,
        "warnings": row.warnings,
        "tags": row.tags,
        "metadata": row.metadata,
        "status_url": url,
        "result_url": f"{url}/result",
        "cancel_url": f"{url}/cancel",
    }


def attempt_view(row: Row[Any]) -> dict[str, Any]:
    """``shared.jobs.schemas.AttemptView`` of a row."""
    return dict(row._mapping)  # noqa: SLF001  SQLAlchemy's documented name


def result_view(row: Row[Any], public_url: str) -> dict[str, Any]:
    """The result, in which every picture has the address of its bytes."""
    result: dict[str, Any] = row.result
    if "images" in result:
        images = [
            {**image, "url": f"{public_url}{PREFIX}/artifacts/{image['artifact_id']}"}
            for image in result["images"]
        ]
        result = {**result, "images": images}
    return result


def etag(row: Row[Any], waiting: WaitingReason | None) -> str:
    """The version, and with it the waiting reason: that may change without an event."""
    return f'"{row.version}.{waiting}"' if waiting else f'"{row.version}"'


def retry_after(row: Row[Any]) -> dict[str, str]:
    """How long to wait before the next poll, in seconds; nothing once the job is final."""
    if row.state in FINAL:
        return {}
    seconds = _RETRY_SECONDS
    if row.waiting_until is not None:
        left = (row.waiting_until - datetime.now(UTC)).total_seconds()
        seconds = min(max(math.ceil(left), _RETRY_SECONDS), _MAX_RETRY_SECONDS)
    return {"Retry-After": str(seconds)}


def money(value: Decimal) -> str:
    """A decimal without an exponent and without zeros at its end."""
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _default(value: Any) -> Any:
    if isinstance(value, Decimal):
        return money(value)
    raise TypeError(f"no JSON for {type(value).__name__}")
