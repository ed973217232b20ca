"""What surrounds every request: its id, its log line, and the answer to what nobody expected. Plain ASGI, for speed."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uuid_utils import uuid7
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from api.cycle import WHOLE
from api.errors import unexpected
from shared.access.service import Caller
from shared.logging import context

access = logging.getLogger("api.access")

_SANE_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
#: With these a proxy tells whom it asks for.
_FORWARDED = frozenset({b"x-forwarded-for", b"x-forwarded-proto"})
#: What takes longer is logged, however well it went.
_SLOW_SECONDS = 1.0
#: What nginx writes for a client that did not wait.
CLIENT_GONE = 499


#: On every answer, beside its request's id: as a header, and as it goes out.
_NO_SNIFFING = (b"x-content-type-options", b"nosniff")
_LINES = b"x-request-id: %b\r\nx-content-type-options: nosniff\r\n"


class RequestContext:
    """The outermost layer of ours. Puts ``request_id`` and ``public_url`` into the scope."""

    def __init__(self, app: ASGIApp, *, public_url: str, proxies: str) -> None:
        self._app = app
        self._public_url = public_url
        self._proxied: Any = ProxyHeadersMiddleware(_nothing, proxies)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id, forwarded = _seen(scope["headers"])
        if forwarded:  # which writes the client's address into the scope; for each request it would cost a poll a thirtieth
            await self._proxied(scope, receive, send)
        scope["request_id"] = request_id
        scope["public_url"] = self._public_url
        name = request_id.encode()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                _add_headers(message, name)
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


def _seen(headers: Iterable[tuple[bytes, bytes]]) -> tuple[str, bool]:
    """The request's id, the client's own where it is harmless, and whether a proxy says whom it asks for."""
    request_id, forwarded = None, False
    for name, value in headers:
        if name == b"x-request-id":
            if request_id is None and _SANE_ID.fullmatch(value):
                request_id = str(value, "ascii")
        elif name in _FORWARDED:
            forwarded = True
    return request_id or str(uuid7()), forwarded


def _add_headers(start: Message, request_id: bytes) -> None:
    """To the beginning of an answer."""
    whole = start.get(WHOLE)
    if whole is None:
        start["headers"] = [*start["headers"], (b"x-request-id", request_id), _NO_SNIFFING]
    else:
        start[WHOLE] = (whole[0] + _LINES % request_id, whole[1])


async def _nothing(scope: Any, receive: Any, send: Any) -> None:
    """An application behind a middleware that only its scope is wanted of."""


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
            client[0][:100] if client else "-",  # what a proxy wrote
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
