"""What handlers are given: the process's services, and the caller, checked before anything else is looked at."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.responses import Response
from starlette.routing import BaseRoute

from api.budget import Budget
from api.deltas import Deltas
from api.first_views import FirstViews
from api.hub import Hub
from api.readiness import Readiness
from api.tail import Tail
from shared.access.service import Authenticator, Caller
from shared.batches.replays import BulkReplays
from shared.batches.service import BatchService
from shared.config import Settings
from shared.db import Database
from shared.errors import FieldError, Forbidden, Unauthenticated, ValidationFailed
from shared.events.service import EventService
from shared.idempotency.service import IdempotencyService
from shared.jobs.lists import JobLists
from shared.jobs.service import JobService
from shared.jobs.waiting import Waiting
from shared.queue import Doorbell
from shared.uploads.service import UploadService
from shared.wakeups import Wakeups
from shared.webhooks.service import WebhookService

READ, WRITE = "jobs:read", "jobs:write"
#: Large bodies that are worked on at once.
_LARGE_BODIES = 4
#: Bodies of the largest size that may be in memory at once, whole or in part.
_WHOLE_BODIES = 4
_CHALLENGE = 'Bearer realm="plantain"'


@dataclass(frozen=True, slots=True)
class Services:
    """One a process, at ``app.services``."""

    settings: Settings
    database: Database
    doorbell: Doorbell
    wakeups: Wakeups
    hub: Hub
    deltas: Deltas
    events: EventService
    tail: Tail
    jobs: JobService
    lists: JobLists
    waiting: Waiting
    first_views: FirstViews
    uploads: UploadService
    batches: BatchService
    replays: BulkReplays
    idempotency: IdempotencyService
    webhooks: WebhookService
    authenticator: Authenticator
    readiness: Readiness
    #: Taken by whoever works on a large body: each costs several times its size in memory.
    large_bodies: asyncio.Semaphore
    #: What bodies take in memory while they are received and worked on.
    body_bytes: Budget

    @classmethod
    def of(cls, settings: Settings) -> Services:
        database = Database(settings, application="plantain api", counting=True)
        doorbell, wakeups = Doorbell(settings), Wakeups(settings)
        waiting = Waiting(database, settings)
        jobs = JobService(database, settings, doorbell, wakeups)
        hub, events = Hub(wakeups, settings.api_max_waiting), EventService(database, settings)
        return cls(
            settings=settings,
            database=database,
            doorbell=doorbell,
            wakeups=wakeups,
            hub=hub,
            deltas=Deltas(settings),
            events=events,
            tail=Tail(events, database, hub, settings.public_url or ""),
            jobs=jobs,
            lists=JobLists(database, settings, wakeups, waiting),
            waiting=waiting,
            first_views=FirstViews(settings.public_url or ""),
            uploads=UploadService(database, settings),
            batches=BatchService(database, settings, jobs, wakeups),
            replays=BulkReplays(database, settings, jobs),
            idempotency=IdempotencyService(database, settings),
            webhooks=WebhookService(database, settings),
            authenticator=Authenticator(database),
            readiness=Readiness(settings, wakeups, database),
            large_bodies=asyncio.Semaphore(_LARGE_BODIES),
            body_bytes=Budget(_WHOLE_BODIES * settings.max_body_bytes),
        )

    async def close(self) -> None:
        self.hub.close()
        await self.waiting.close()
        await self.deltas.close()
        await self.readiness.close()
        await self.doorbell.close()
        await self.wakeups.close()
        await self.database.close()


def services_of(request: Request) -> Services:
    services: Services = request.scope["app"].services
    return services


def caller_of(request: Request) -> Caller:
    """Who asks; every route of ``ProjectRoute`` has one."""
    caller: Caller = request.scope["caller"]
    return caller


def uuid_of(value: str) -> UUID | None:
    """The id that a path names; what has not the form of one is nobody's."""
    try:
        return UUID(value) if len(value) == 36 else None
    except ValueError:
        return None


Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class ApiRoute(APIRoute):
    """A route that refuses query parameters it does not know: a misspelt filter must not look like no filter."""

    def get_route_handler(self) -> Handler:
        return self.checked(super().get_route_handler())

    def checked(self, handle: Handler) -> Handler:
        """The handler behind what every request must pass first."""
        allowed = _query_names(self)

        async def handler(request: Request) -> Response:
            if request.scope["query_string"]:
                _refuse_unknown(request, allowed)
            return await handle(request)

        return handler


class ProjectRoute(ApiRoute):
    """A route for callers with a key: GET needs jobs:read, everything else jobs:write.

    Checked here and not in a dependency: no route can forget it, and FastAPI's dependencies cost as
    much as the whole rest of a poll.
    """

    def checked(self, handle: Handler) -> Handler:
        allowed, scope = _query_names(self), self.needed_scope()

        async def handler(request: Request) -> Response:
            request.scope["caller"] = await authenticate(request, scope)
            if request.scope["query_string"]:
                _refuse_unknown(request, allowed)
            return await handle(request)

        return handler

    def direct_handler(self) -> Handler:
        """The endpoint behind the same checks, without FastAPI's; for endpoints that take the request alone."""
        return self.checked(self.endpoint)

    def needed_scope(self) -> str | None:
        return READ if self.methods and self.methods <= {"GET", "HEAD"} else WRITE


class BothScopesRoute(ProjectRoute):
    """A route by whose writes a caller gets to see what others submitted: they need jobs:read, too."""

    def checked(self, handle: Handler) -> Handler:
        async def handler(request: Request) -> Response:
            _need(READ, caller_of(request))
            return await handle(request)

        return super().checked(handler)


class AnyKeyRoute(ProjectRoute):
    """A route for every valid key."""

    def needed_scope(self) -> None:
        return None


async def authenticate(request: Request, scope: str | None) -> Caller:
    """The caller, who has the scope.

    Raises:
        Unauthenticated: no key, or one that is not valid (any more).
        Forbidden: the key lacks the scope.
    """
    header = request.headers.get("authorization", "")
    scheme, _, key = header.partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        message = "Send your API key as the header Authorization: Bearer pln_…"
        raise Unauthenticated(message, headers={"WWW-Authenticate": _CHALLENGE})
    authenticator = services_of(request).authenticator
    try:
        caller = authenticator.remembered(key) or await authenticator.authenticate(key.strip())
    except Unauthenticated as error:
        error.headers["WWW-Authenticate"] = f'{_CHALLENGE}, error="invalid_token"'
        raise
    if scope is not None:
        _need(scope, caller)
    return caller


def _need(scope: str, caller: Caller) -> None:
    """Raises: Forbidden: the key lacks the scope."""
    if scope not in caller.scopes:
        raise Forbidden(
            f"The key {caller.key_prefix} lacks the scope {scope}.",
            code="insufficient_scope",
            headers={"WWW-Authenticate": f'{_CHALLENGE}, error="insufficient_scope", scope="{scope}"'},
        )


def heads(routes: Sequence[BaseRoute]) -> list[BaseRoute]:
    """For each route that takes GET, one that takes HEAD: the server leaves the body out."""
    return [
        type(route)(
            route.path,
            route.endpoint,
            methods=["HEAD"],
            response_model=None,
            include_in_schema=False,
            openapi_extra=route.openapi_extra,
        )
        for route in routes
        if isinstance(route, ApiRoute) and "GET" in (route.methods or ())
    ]


def _query_names(route: APIRoute) -> frozenset[str]:
    names: set[str] = set()
    for field in route.dependant.query_params:
        model = getattr(field.field_info, "annotation", None)
        names |= set(getattr(model, "model_fields", None) or {field.alias})
    # And those that a handler reads by hand.
    documented = (route.openapi_extra or {}).get("parameters", ())
    return frozenset(names | {entry["name"] for entry in documented if entry["in"] == "query"})


def _refuse_unknown(request: Request, allowed: frozenset[str]) -> None:
    given = [name for name, _ in request.query_params.multi_items()]
    unknown = sorted(set(given) - allowed)
    if not unknown:
        return
    message = (
        f"is not a parameter here; use one of: {', '.join(sorted(allowed))}"
        if allowed
        else "is not a parameter here; none are taken"
    )
    raise ValidationFailed(
        "The query has parameters that do not exist here.",
        code="unknown_parameter",
        errors=[
            FieldError(f"?{name[:100]}", "unknown_parameter", message, sorted(allowed)) for name in unknown
        ],
    )
