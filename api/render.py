"""Answers built by hand: a dictionary and orjson, without a second validation of what the database already guards."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Row
from starlette.responses import Response

from shared.jobs.queries import JobRow
from shared.jobs.status import FINAL, WaitingReason
from shared.jobs.views import PREFIX, dumps, job_view, money

__all__ = [
    "PREFIX",
    "JsonResponse",
    "attempt_view",
    "dumps",
    "etag",
    "job_view",
    "money",
    "result_view",
    "retry_after",
    "sse",
]

_RETRY_SECONDS = 1
_MAX_RETRY_SECONDS = 60


class JsonResponse(Response):
    """JSON that nobody may keep, unless the headers say otherwise. Starlette's own takes thrice as long to make."""

    def __init__(
        self,
        body: Any,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        *,
        media_type: str = "application/json",
    ) -> None:
        self.status_code = status
        self.background = None
        self.body = body if isinstance(body, bytes) else dumps(body)
        found = {"cache-control": "no-store"}
        for name, value in (headers or {}).items():
            found[name.lower()] = value
        self.raw_headers = [
            (name.encode("latin-1"), value.encode("latin-1")) for name, value in found.items()
        ]
        self.raw_headers += [
            (b"content-type", media_type.encode()),
            (b"content-length", str(len(self.body)).encode()),
        ]


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


def sse(row: Row[Any], public_url: str) -> bytes:
    """A server-sent event, whole, with ``shared.events.schemas.EventView`` of a row of ``events.queries.VIEW``."""
    view = {
        "id": row.id,
        "type": row.type,
        "time": row.created_at,
        "job_id": row.job_id,
        "version": row.version,
        "data": row.data,
        "job": _event_job(row, public_url) if row.job_id else None,
    }
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (row.id, row.type.encode(), dumps(view))


def _event_job(row: Row[Any], public_url: str) -> dict[str, Any]:
    url = f"{public_url}{PREFIX}/jobs/{row.job_id}"
    return {
        "kind": row.kind,
        "model": row.model,
        "priority": row.priority,
        "state": row.state,
        "version": row.job_version,
        "attempt": row.attempt,
        "cost_usd": row.cost_usd,
        "error": row.error,
        "status_url": url,
        "result_url": f"{url}/result",
    }


def etag(row: JobRow, waiting: WaitingReason | None) -> str:
    """The version, and with it the waiting reason: that may change without an event."""
    return f'"{row.version}.{waiting}"' if waiting else f'"{row.version}"'


def retry_after(row: JobRow) -> dict[str, str]:
    """How long to wait before the next poll, in seconds; nothing once the job is final."""
    if row.state in FINAL:
        return {}
    seconds = _RETRY_SECONDS
    if row.waiting_until is not None:
        left = (row.waiting_until - datetime.now(UTC)).total_seconds()
        seconds = min(max(math.ceil(left), _RETRY_SECONDS), _MAX_RETRY_SECONDS)
    return {"Retry-After": str(seconds)}
