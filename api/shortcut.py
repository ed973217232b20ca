"""A way past FastAPI's layers for the two requests that nearly all traffic consists of: submit and poll.

The framework's middleware, routing, dependency solving and response handling cost twice what a poll's own work does.
Such a route is declared and documented as every other; it only is found here first, by method and path, and its handler
is called directly. Whatever does not match exactly goes the usual way.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from api.errors import problem
from api.headers import DirectRequest
from api.middleware import RequestContext
from shared.errors import AppError

if TYPE_CHECKING:
    from api.deps import Handler, ProjectRoute, Services

_ID_LENGTH = 36


class Shortcut:
    """Finds and answers direct routes: fixed paths, and those that end with ``/{id}``."""

    def __init__(self, routes: Iterable[ProjectRoute]) -> None:
        self._fixed: dict[tuple[str, str], Handler] = {}
        self._with_id: dict[tuple[str, str], tuple[str, Handler]] = {}
        for route in routes:
            head, _, last = route.path.rpartition("/")
            for method in route.methods or ():
                if last.startswith("{"):
                    self._with_id[method, head] = last.strip("{}"), route.direct_handler()
                else:
                    self._fixed[method, route.path] = route.direct_handler()

    def leads(self, scope: Scope) -> bool:
        """Whether the request can be answered here; if so, notes how in the scope."""
        method, path = scope["method"], scope["path"]
        handler = self._fixed.get((method, path))
        if handler is None:
            head, _, last = path.rpartition("/")
            found = self._with_id.get((method, head))
            # What is no id may be the name of something else there.
            if found is None or len(last) != _ID_LENGTH or last.count("-") != 4:
                return False
            scope["path_params"] = {found[0]: last}
            handler = found[1]
        scope["shortcut"] = handler
        return True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = DirectRequest(scope, receive, send)
        handler: Handler = scope["shortcut"]
        try:
            response = await handler(request)
        except AppError as error:
            response = problem(scope, error)
        await response(scope, receive, send)


class Application(FastAPI):
    """FastAPI with a shortcut. ``open`` it once its routes are there."""

    #: ``api.deps`` finds them here.
    services: Services
    _shortcut: Shortcut | None = None
    _surrounded: ASGIApp

    def open_shortcut(self, routes: Iterable[ProjectRoute], **context: str) -> None:
        """``context`` is what ``RequestContext`` takes."""
        self._shortcut = Shortcut(routes)
        self._surrounded = RequestContext(self._shortcut, **context)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._shortcut is not None and self._shortcut.leads(scope):
            scope["app"] = self
            await self._surrounded(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)
