"""Which methods an address takes, where an address with a parameter would fit it, too: ``/jobs/cancel`` is no job's id."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import Request
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


class Refusal(Route):
    """Stands before the routes with parameters and refuses what a fixed address does not take."""


async def _refuse(_: Request) -> Response:
    raise HTTPException(405)


def refusals(routes: Sequence[BaseRoute]) -> list[BaseRoute]:
    """A refusal for each fixed address that a route with parameters would answer with another method."""
    found: list[BaseRoute] = []
    every = [route for route in routes if isinstance(route, Route)]
    for path in dict.fromkeys(route.path for route in every if not route.param_convertors):
        own = {method for route in every if route.path == path for method in route.methods or ()}
        others = [
            method
            for method in METHODS
            if method not in own and any(_fits(route, path, method) for route in every)
        ]
        if others:
            found.append(Refusal(path, _refuse, methods=others, include_in_schema=False))
    return found


def methods_of(routes: Sequence[BaseRoute], request: Request) -> list[str]:
    """Every method of an address: the framework's own list has those of one route only."""
    found = set()
    for method in METHODS:
        scope = {**request.scope, "method": method}
        first = next((route for route in routes if route.matches(scope)[0] is Match.FULL), None)
        if first is not None and not isinstance(first, Refusal):
            found.add(method)
    return sorted(found)


def _fits(route: Route, path: str, method: str) -> bool:
    return method in (route.methods or ()) and route.path_regex.match(path) is not None
