"""Whether the process lives, and whether it can accept jobs. Open to everybody, and silent about addresses."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from api import render
from api.deps import ApiRoute, services_of

router = APIRouter(prefix="/api/health", tags=["health"], route_class=ApiRoute)


class Live(BaseModel):
    status: Literal["alive"]


class Dependency(BaseModel):
    """One thing that we need."""

    state: str = Field(description="`ok`, `unavailable`, `read_only`, `full`, `missing` or `unknown`.")
    detail: str | None = Field(default=None, description="What is wrong and what to do.")


class Ready(BaseModel):
    """Whether jobs can be accepted."""

    status: Literal["ready", "degraded", "unavailable"] = Field(
        description="`ready`: all is well. `degraded`: jobs are accepted and may wait. `unavailable`: they are not."
    )
    dependencies: dict[Literal["postgresql", "redis", "workers"], Dependency]


@router.get("/live", response_model=Live, summary="Is the process alive?", openapi_extra={"security": []})
async def live(request: Request) -> Response:  # noqa: ARG001
    """200 as long as the process answers at all; asks nobody else."""
    return render.JsonResponse(b'{"status":"alive"}')


_READY: dict[int | str, dict[str, Any]] = {503: {"model": Ready, "description": "Jobs cannot be accepted."}}


@router.get(
    "/ready",
    response_model=Ready,
    summary="Can jobs be accepted?",
    responses=_READY,
    openapi_extra={"security": []},
)
@router.get(
    "", response_model=Ready, summary="The same as ready", responses=_READY, openapi_extra={"security": []}
)
async def ready(request: Request) -> Response:
    """200 where PostgreSQL is well and its tables are current; answers within two seconds, whatever hangs."""
    accepting, report = await services_of(request).readiness.report()
    return render.JsonResponse(report, 200 if accepting else 503, {} if accepting else {"Retry-After": "5"})
