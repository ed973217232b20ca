"""Answers built by hand: a dictionary and orjson, without a second validation of what the database already guards."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.cycle import WHOLE
from shared.deltas import Delta
from shared.jobs.outlook import Outlook
from shared.jobs.queries import JobRow
from shared.jobs.status import FINAL
from shared.jobs.views import PREFIX, dumps, job_view, money

__all__ = [
    "PREFIX",
    "JsonResponse",
    "Whole",
    "attempt_view",
    "delta",
    "dumps",
    "etag",
    "job_view",
    "money",
    "result_view",
    "retry_after",
    "sse",
]

_NO_HEADERS: Mapping[str, str] = {}
_NO_STORE = {"Cache-Control": "no-store"}
_RETRY_SECONDS = 1
_MAX_RETRY_SECONDS = 60
_SOON = {"Retry-After": str(_RETRY_SECONDS)}


class Whole(Response):
    """An answer that is sent in one step where the server can (``api.cycle``).

    Raises:
        RuntimeError: a header holds what would end it.
    """

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes = b"") -> None:
        self.status_code = status
        self.background = None
        self.body = body
        self._head = _lines(headers)
        if body:
            self._head += b"content-length: %d\r\n" % len(body)

    @classmethod
    def of_lines(cls, status: int, lines: bytes, body: bytes) -> Whole:
        """Of headers as they go out, for which the caller answers: each with its end, and the body's length among them."""
        whole = cls.__new__(cls)
        whole.status_code, whole.background, whole.body = status, None, body
        whole._head = lines  # noqa: SLF001  its own
        return whole

    @property
    def raw_headers(self) -> tuple[tuple[bytes, bytes], ...]:  # type: ignore[override]
        """As ASGI has them. Not to be changed, so that nobody thinks he did; see ``add``."""
        return tuple(
            (name, value) for name, _, value in (line.partition(b": ") for line in self._head.splitlines())
        )

    def add(self, headers: Mapping[str, str]) -> None:
        self._head += _lines(headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if WHOLE not in scope.get("extensions", ()):
            await super().__call__(scope, receive, send)
            return
        whole = self._head, self.body
        await send({"type": "http.response.start", "status": self.status_code, "headers": (), WHOLE: whole})


def _lines(headers: Mapping[str, str]) -> bytes:
    """Headers as they go out.

    Raises:
        RuntimeError: one holds what would end it.
    """
    lines = "".join([f"{name.lower()}: {value}\r\n" for name, value in headers.items()]).encode("latin-1")
    if not lines.count(b"\n") == lines.count(b"\r") == len(headers) or b"\0" in lines:
        raise RuntimeError("a header's value holds what would end it")
    return lines


class JsonResponse(Whole):
    """JSON that nobody may keep, unless the headers say otherwise. Starlette's own takes thrice as long to make."""

    def __init__(
        self,
        body: Any,
        status: int = 200,
        headers: Mapping[str, str] = _NO_HEADERS,
        *,
        media_type: str = "application/json",
    ) -> None:
        body = body if isinstance(body, bytes) else dumps(body)
        super().__init__(status, {**_NO_STORE, **headers, "Content-Type": media_type}, body)


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


def delta(job_id: UUID, piece: Delta) -> bytes:
    """A piece of a text as a server-sent event. It has no id: ``Last-Event-ID`` stays that of the last stored event."""
    view = {"job_id": job_id, "attempt": piece.attempt, "offset": piece.offset, "text": piece.text}
    return b"event: delta\ndata: %s\n\n" % dumps(view)


def etag(row: JobRow, outlook: Outlook) -> str:
    """The version, and what changes without an event: why it waits, and its place in the queue.

    Weak while the answer says how long something has taken or will take: that moves all the time, and is no news.
    """
    if outlook.reason is None:
        return f'W/"{row.version}"' if outlook.progress else f'"{row.version}"'
    if outlook.position is None:
        return f'W/"{row.version}.{outlook.reason}"'
    return f'W/"{row.version}.{outlook.reason}.{outlook.position}"'


def changed_since(known: str, row: JobRow, outlook: Outlook) -> bool:
    """Whether a job is another one than the ``If-None-Match`` names; that it moved up in its queue does not count."""
    standing = f"{row.version}.{outlook.reason}" if outlook.reason else f"{row.version}"
    return re.search(rf'"{re.escape(standing)}(\.[0-9]+)?"', known) is None and known.strip() != "*"


def retry_after(row: JobRow, outlook: Outlook) -> Mapping[str, str]:
    """How long to wait before the next poll, in whole seconds; nothing once the job is final.

    Where its time is known, until then, else half of what it will probably take. A little is left to chance, so that
    clients which were told at the same moment do not come back in step.
    """
    if row.state in FINAL:
        return _NO_HEADERS
    if row.waiting_until is None and not outlook.look_after:
        return _SOON
    chance = random.random()  # noqa: S311  no secret
    if row.waiting_until is not None:
        left = (row.waiting_until - datetime.now(UTC)).total_seconds()
        seconds = math.ceil(left * (1 + 0.1 * chance))
    else:
        seconds = int((outlook.look_after or 0) * (0.9 + 0.2 * chance))
    longest = _MAX_RETRY_SECONDS - int(6 * chance)
    return {"Retry-After": str(min(max(seconds, _RETRY_SECONDS), longest))}
