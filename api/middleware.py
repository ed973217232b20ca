"""What surrounds every request: its id, its log line, and the answer to what nobody expected. Plain ASGI, for speed."""

from __future__ import annotations

import logging
import re
import time

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uuid_utils import uuid7

from api.errors import unexpected
from shared.access.service import Caller
from shared.logging import context

access = logging.getLogger("api.access")

_SANE_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
#: What takes longer is logged, however well it went.
_SLOW_SECONDS = 1.0
#: What nginx writes for a client that did not wait.
CLIENT_GONE = 499


class RequestContext:
    """The outermost layer of ours. Puts ``request_id`` and ``public_url`` into the scope."""

    def __init__(self, app: ASGIApp, *, public_url: str = "") -> None:
        self._app = app
        self._public_url = public_url

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id = _request_id(scope)
        scope["request_id"] = request_id
        scope["public_url"] = self._public_url
        extra = [(b"x-request-id", request_id.encode()), (b"x-content-type-options", b"nosniff")]
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *extra]
            await send(message)

        token = context.set({"request_id": request_id})
        try:
            await self._app(scope, receive, send_with_id)
        except ClientDisconnect:
            status = status or CLIENT_GONE
        except Exception as error:  # noqa: BLE001  nothing may leave without an answer
            # Where the answer has begun, returning without its end makes the server cut the connection:
            # the client sees that it is not whole.
            begun = status
            response = unexpected(scope, error)
            if not begun:
                await response(scope, receive, send_with_id)
        finally:
            _log(scope, status, time.perf_counter() - started)
            context.reset(token)


def _request_id(scope: Scope) -> str:
    """The client's own where it is harmless, else a fresh one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _SANE_ID.fullmatch(value):
            return str(value, "ascii")
    return str(uuid7())


def _log(scope: Scope, status: int, seconds: float) -> None:
    """One line, without the query: it may hold what nobody should read. What went well in good time is DEBUG.

    Polls and submits are nearly all that happens here, and what becomes of a job its worker says; a line for each costs
    as much as a third of the request and hides what went wrong.
    """
    level = logging.DEBUG if status < 400 and seconds < _SLOW_SECONDS else logging.INFO
    if access.isEnabledFor(level):
        client = scope.get("client")
        access.log(
            level,
            "%s %s %s %d %.1f ms",
            client[0] if client else "-",
            scope["method"],
            scope["path"][:200],
            status,
            seconds * 1000,
            extra=_who(scope),
        )


def _who(scope: Scope) -> dict[str, str]:
    """Whose request it was, and about which job: what ties the line to those of workers."""
    caller: Caller | None = scope.get("caller")
    job_id = scope.get("job_id")
    who = {"project_id": str(caller.project_id), "key": caller.key_prefix} if caller else {}
    return {**who, "job_id": str(job_id)} if job_id else who
