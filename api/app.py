"""The application: what ``python -m api`` serves and tests call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fastapi import FastAPI

from api import docs, errors, openapi
from api.deps import Services, heads
from api.methods import refusals
from api.middleware import RequestContext
from api.routers import artifacts, batches, events, health, jobs, kinds, models, replays, uploads, webhooks
from api.shortcut import Application
from api.standstill import Standstill
from shared import checkpoints
from shared.collector import calm_the_collector
from shared.config import Settings, get_settings
from shared.logging import setup_logging


def create_app(settings: Settings) -> Application:
    """The API for these settings. Its services are made at once and closed at the end of its lifespan."""
    services = Services.of(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Any]]:
        # Beside the start, not before it: a process that is alive and not ready can say so.
        calm_the_collector()
        first_look = asyncio.create_task(services.readiness.log_once())
        services.hub.start()
        standstill = Standstill(settings.send_timeout)
        looks = asyncio.create_task(standstill.keep())
        yield {"hub": services.hub, "standstill": standstill}
        looks.cancel()
        await first_look  # takes no longer than a health check
        await services.close()

    app = Application(
        title="Plantain",
        version=_version(),
        lifespan=lifespan,
        docs_url=None,  # its assets would come from elsewhere
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,  # the redirect would repeat whatever Host a client sent
    )
    app.services = services
    context = {"public_url": settings.public_url or "", "proxies": settings.forwarded_allow_ips}
    app.add_middleware(RequestContext, **context)
    errors.install(app)
    for router in (
        jobs.router,
        replays.router,
        batches.router,
        events.router,
        artifacts.router,
        uploads.router,
        webhooks.router,
        models.router,
        kinds.router,
        health.router,
        docs.router,
    ):
        # Taken over rather than included: an included router is matched anew in every request, twice.
        app.router.routes.extend(router.routes)
    app.router.routes.extend(heads(app.router.routes))
    app.router.routes[:0] = refusals(app.router.routes)
    app.open_shortcut(jobs.DIRECT, **context)
    app.openapi = lambda: openapi.document(app)  # type: ignore[method-assign]
    return app


def from_environment() -> Any:
    """What uvicorn calls in each process."""
    settings = get_settings()
    setup_logging(settings)
    checkpoints.arm(settings.test_checkpoints)
    return create_app(settings)


def _version() -> str:
    try:
        return version("plantain")
    except PackageNotFoundError:  # run from a checkout
        return "0.1.0"
