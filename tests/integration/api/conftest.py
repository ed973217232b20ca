"""A client of the API, in this process: real PostgreSQL and Redis, no socket for HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import httpx
import pytest

from api.app import create_app
from api.shortcut import Application
from shared.config import Settings
from shared.db import Database
from tests import factories


@pytest.fixture
async def app(settings: Settings) -> AsyncIterator[Application]:
    made = create_app(settings)
    async with made.router.lifespan_context(made):
        yield made


@pytest.fixture
async def anonymous(app: Application) -> AsyncIterator[httpx.AsyncClient]:
    """A client without a key."""
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
        yield client


@pytest.fixture
async def key(database: Database) -> str:
    """A key of the project ``default`` with every scope."""
    return await factories.key(database)


@pytest.fixture
async def project_id(database: Database, key: str) -> UUID:
    return await factories.project(database)


@pytest.fixture
async def client(app: Application, key: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the project ``default``."""
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app), base_url="http://api", headers=bearer(key)
    ) as client:
        yield client


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Checks that an answer is the expected problem, whole and well-formed, and gives it."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["code"] == code, body
    assert body["status"] == status
    assert body["type"].endswith(f"/docs#error-{code}")
    assert {"title", "detail", "instance", "request_id"} <= body.keys()
    assert body["request_id"] == response.headers["x-request-id"]
    return body
