"""Keys, scopes and projects."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from sqlalchemy import text

from api.deps import ProjectRoute
from api.methods import Refusal
from api.shortcut import Application
from shared.access import queries, service
from shared.access.keys import new_key
from shared.db import Database
from tests import factories
from tests.integration.api.conftest import bearer, problem

OPEN = {"/", "/docs", "/openapi.json", "/api/health", "/api/health/live", "/api/health/ready"}


async def test_every_address_but_health_and_docs_needs_a_key(
    app: Application, anonymous: httpx.AsyncClient
) -> None:
    checked = 0
    for route in app.routes:
        if isinstance(route, Refusal):  # for whoever asks
            continue
        path, methods = getattr(route, "path", ""), getattr(route, "methods", None) or ()
        for method in methods:
            response = await anonymous.request(method, re.sub(r"\{\w+\}", "x", path))
            assert (response.status_code == 401) == (path not in OPEN), (method, path, response.status_code)
            assert isinstance(route, ProjectRoute) == (path not in OPEN)
            checked += 1
    assert checked >= 14


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic dTpw", "pln_abc", "\xff"])
async def test_without_a_key(anonymous: httpx.AsyncClient, header: str | None) -> None:
    headers = {} if header is None else {b"Authorization": header.encode("latin-1")}
    response = await anonymous.get("/api/v1/jobs", headers=headers)
    body = problem(response, 401, "unauthenticated")
    assert response.headers["www-authenticate"] == 'Bearer realm="plantain"'
    assert "Authorization: Bearer" in body["detail"]


@pytest.mark.parametrize(
    "key",
    ["abc", "pln_abc", new_key(), new_key() + "x", "\udcff", "x" * 100_000],
    ids=["no key", "short", "unknown", "too long", "no UTF-8", "endless"],
)
async def test_a_key_that_is_none(anonymous: httpx.AsyncClient, key: str) -> None:
    headers = {b"Authorization": b"Bearer " + key.encode("utf-8", "surrogateescape")}
    response = await anonymous.get("/api/v1/jobs", headers=headers)
    problem(response, 401, "invalid_api_key")
    assert 'error="invalid_token"' in response.headers["www-authenticate"]
    assert key not in response.text


async def test_the_scheme_is_read_in_any_case(anonymous: httpx.AsyncClient, key: str) -> None:
    assert (
        await anonymous.get("/api/v1/jobs", headers={"Authorization": f"bearer  {key} "})
    ).status_code == 200


async def test_a_right_prefix_with_a_wrong_secret_learns_nothing(
    anonymous: httpx.AsyncClient, key: str
) -> None:
    wrong = key[:-1] + ("A" if key[-1] != "A" else "B")
    body = problem(await anonymous.get("/api/v1/jobs", headers=bearer(wrong)), 401, "invalid_api_key")
    assert body["detail"].startswith("No such API key")


async def test_an_expired_key(anonymous: httpx.AsyncClient, database: Database) -> None:
    key = await factories.key(database, expires_at=datetime.now(UTC) - timedelta(seconds=1))
    problem(await anonymous.get("/api/v1/jobs", headers=bearer(key)), 401, "expired_api_key")


async def test_a_revoked_key_works_no_longer_than_the_cache(
    client: httpx.AsyncClient, database: Database, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "CACHE_SECONDS", 0.0)
    assert (await client.get("/api/v1/jobs")).status_code == 200
    async with database.transaction() as db:
        await queries.revoke_key(db, key.split("_")[1])
    problem(await client.get("/api/v1/jobs"), 401, "revoked_api_key")


@pytest.mark.parametrize(
    ("scope", "method", "path", "missing"),
    [
        ("jobs:read", "POST", "/api/v1/jobs", "jobs:write"),
        ("jobs:read", "POST", "/api/v1/jobs/x/cancel", "jobs:write"),
        ("jobs:write", "GET", "/api/v1/jobs", "jobs:read"),
        ("jobs:write", "GET", "/api/v1/jobs/x", "jobs:read"),
        ("jobs:write", "GET", "/api/v1/jobs/x/result", "jobs:read"),
        ("jobs:write", "GET", "/api/v1/artifacts/x", "jobs:read"),
        # Through a webhook one sees what others submitted.
        ("jobs:write", "POST", "/api/v1/webhooks", "jobs:read"),
        ("jobs:write", "POST", "/api/v1/webhooks/job-secret", "jobs:read"),
        ("jobs:read", "POST", "/api/v1/webhooks", "jobs:write"),
        ("jobs:read", "DELETE", "/api/v1/webhooks/x", "jobs:write"),
    ],
)
async def test_a_scope_that_lacks(
    anonymous: httpx.AsyncClient, database: Database, scope: str, method: str, path: str, missing: str
) -> None:
    key = await factories.key(database, scopes=[scope])
    response = await anonymous.request(method, path, headers=bearer(key))
    assert missing in problem(response, 403, "insufficient_scope")["detail"]
    assert f'error="insufficient_scope", scope="{missing}"' in response.headers["www-authenticate"]


async def test_a_key_that_only_writes_can_submit_and_read_the_catalogue(
    anonymous: httpx.AsyncClient, database: Database
) -> None:
    headers = bearer(await factories.key(database, scopes=["jobs:write"]))
    assert (await anonymous.post("/api/v1/jobs", json=factories.TEXT_JOB, headers=headers)).status_code == 202
    for path in ("/api/v1/kinds", "/api/v1/models"):
        assert (await anonymous.get(path, headers=headers)).status_code == 200


async def test_a_request_without_a_key_is_refused_before_its_body_is_read(
    anonymous: httpx.AsyncClient,
) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield pytest.fail("the body was read")

    response = await anonymous.post("/api/v1/jobs", content=body())
    problem(response, 401, "unauthenticated")


async def test_secrets_are_stored_as_hashes_alone(database: Database, key: str) -> None:
    async with database.transaction() as db:
        row = (await db.execute(text("SELECT CAST(k.* AS text) AS whole FROM api_keys k"))).scalar_one()
    assert key.split("_")[1] in row
    assert key[13:] not in row
