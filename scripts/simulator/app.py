"""The ASGI application: which path is whose."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from . import control, gateway, gemini
from .delivery import html_page
from .exchange import Exchange
from .state import Simulator

VERSIONS = ("v1", "v1beta")

Handler = Callable[[Simulator, Exchange], Awaitable[None]]


class Endpoint:
    """An ASGI endpoint around a handler: a class, because a route takes it as it is."""

    def __init__(self, sim: Simulator, handler: Handler) -> None:
        self._sim = sim
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._handler(self._sim, Exchange(scope, receive, send))


async def _generate(sim: Simulator, exchange: Exchange) -> None:
    names = exchange.scope["path_params"]
    if names["method"] in ("generateContent", "streamGenerateContent"):
        stream = names["method"] == "streamGenerateContent"
        await gemini.generate(sim, exchange, _version(exchange), names["model"], stream)
    else:
        await nothing_here(sim, exchange)


async def _get_model(sim: Simulator, exchange: Exchange) -> None:
    names = exchange.scope["path_params"]
    await gemini.get_model(sim, exchange, _version(exchange), names["model"])


def _version(exchange: Exchange) -> str:
    return exchange.path.rpartition("/models/")[0].rpartition("/")[2]


async def nothing_here(_: Simulator, exchange: Exchange) -> None:
    """Google answers an unknown path with a page, not with its error envelope."""
    page = html_page(404, "Error 404 (Not Found)")
    await exchange.answer(page.status, page.body, page.media_type)


def create_app(sim: Simulator) -> Starlette:
    """The application around a simulator."""

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        sim.close()

    def route(path: str, handler: Handler, *methods: str) -> list[Route]:
        """The path as it is and under any prefix, in both versions where it has one."""
        endpoint = Endpoint(sim, handler)
        paths = (
            [path.replace("{version}", version) for version in VERSIONS] if "{version}" in path else [path]
        )
        return [
            Route(prefix + one, endpoint, methods=methods)
            for prefix in ("", "/{prefix:path}")
            for one in paths
        ]

    control_routes = [
        Route("/sim/health", Endpoint(sim, control.health), methods=["GET"]),
        Route("/sim/calls", Endpoint(sim, control.calls), methods=["GET", "DELETE"]),
        Route("/sim/config", Endpoint(sim, control.config), methods=["GET", "PUT"]),
        Route("/sim/last-request", Endpoint(sim, control.last_request), methods=["GET"]),
    ]
    return Starlette(
        routes=[
            *control_routes,
            *route("/{version}/models/{model}:{method}", _generate, "POST"),
            *route("/{version}/models", gemini.list_models, "GET"),
            *route("/{version}/models/{model}", _get_model, "GET"),
            *route("/visualize", gateway.visualize, "POST"),
            *route("/visualize/{id}", gateway.poll, "GET"),
            *route("/visualize-files/{id}/{name}", gateway.file, "GET"),
            Route("/{anything:path}", Endpoint(sim, nothing_here)),
        ],
        lifespan=lifespan,
    )
