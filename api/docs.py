"""The description of the API: as OpenAPI, and as a page that needs nothing from anywhere else."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from api import render

router = APIRouter(include_in_schema=False)


@router.get("/")
async def root(request: Request) -> Response:
    return render.json_response(
        {
            "name": request.app.title,
            "version": request.app.version,
            "api": "/api/v1",
            "documentation": "/docs",
            "openapi": "/openapi.json",
            "health": "/api/health",
        }
    )


@router.get("/openapi.json")
async def openapi(request: Request) -> Response:
    return render.json_response(request.app.openapi(), headers={"Cache-Control": "no-cache"})
