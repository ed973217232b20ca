"""GET /jobs."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import httpx
import pytest

from shared.db import Database
from shared.jobs.status import State
from tests import factories
from tests.integration.api.conftest import problem


async def ids(client: httpx.AsyncClient, **query: Any) -> list[str]:
    response = await client.get("/api/v1/jobs", params=query)
    assert response.status_code == 200, response.text
    return [job["id"] for job in response.json()["items"]]


async def test_newest_first_of_this_project_alone(
    client: httpx.AsyncClient, database: Database, project_id: UUID
) -> None:
    made = [str((await factories.job(database, project_id)).id) for _ in range(3)]
    await factories.job(database, await factories.project(database, "others"))
    assert await ids(client) == made[::-1]


async def test_pages_follow_each_other_whatever_is_submitted_meanwhile(
    client: httpx.AsyncClient, database: Database, project_id: UUID
) -> None:
    made = [str((await factories.job(database, project_id)).id) for _ in range(5)]
    seen: list[str] = []
    cursor = None
    for size in (2, 2, 1):
        page = (
            await client.get("/api/v1/jobs", params={"limit": 2, **({"cursor": cursor} if cursor else {})})
        ).json()
        assert len(page["items"]) == size
        seen += [job["id"] for job in page["items"]]
        cursor = page["next_cursor"]
        await factories.job(database, project_id)
    assert seen == made[::-1]
    assert cursor is None


async def test_filters(client: httpx.AsyncClient, database: Database, project_id: UUID) -> None:
    text = await factories.job(database, project_id, state=State.SUCCEEDED)
    image = await factories.job(
        database, project_id, kind="image.generate", model="nano-banana", queue="image.standard"
    )
    failed = await factories.job(database, project_id, state=State.FAILED)
    assert await ids(client, state="succeeded") == [str(text.id)]
    assert await ids(client, state="succeeded,failed") == [str(failed.id), str(text.id)]
    assert await ids(client, state=["queued", "failed"]) == [str(failed.id), str(image.id)]
    assert await ids(client, kind="image.generate") == [str(image.id)]
    assert await ids(client, model="gemini-flash", state="failed") == [str(failed.id)]
    assert await ids(client, model="nano-banana-pro") == []


@pytest.mark.parametrize(
    ("query", "code", "pointer"),
    [
        ("limit=0", "validation_failed", "?limit"),
        ("limit=201", "validation_failed", "?limit"),
        ("limit=%D9%A3", "validation_failed", "?limit"),
        ("limit=1e2", "validation_failed", "?limit"),
        ("limit=" + "9" * 5000, "validation_failed", "?limit"),
        ("state=done", "validation_failed", "?state"),
        ("kind=video", "validation_failed", "?kind"),
        ("model=%00", "validation_failed", "?model"),
        ("stat=queued", "unknown_parameter", "?stat"),
        ("cursor=" + "x" * 300, "validation_failed", "?cursor"),
    ],
)
async def test_what_is_not_allowed_is_named(
    client: httpx.AsyncClient, query: str, code: str, pointer: str
) -> None:
    body = problem(await client.get(f"/api/v1/jobs?{query}"), 422, code)
    assert body["errors"][0]["pointer"] == pointer
    assert len(str(body)) < 2000


@pytest.mark.parametrize(
    "cursor",
    [
        "x",
        "%00",
        "%F0%9F%8D%8C",
        "MjAyNi0wMS0wMQ",
        "MjAyNi0wMS0wMVQwMDowMDowMC94",
        "MDAwMS0wMS0wMVQwMDowMDowMCsyMzo1OS94",
        "====",
    ],
)
async def test_a_cursor_that_is_none_of_ours(client: httpx.AsyncClient, cursor: str) -> None:
    problem(await client.get(f"/api/v1/jobs?cursor={cursor}"), 400, "invalid_cursor")


async def test_a_forged_cursor_at_the_edge_of_time_is_harmless(client: httpx.AsyncClient) -> None:
    from base64 import urlsafe_b64encode

    for moment in ("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"):
        cursor = (
            urlsafe_b64encode(f"{moment}/0198a7c2-6f0e-7c3a-9a53-0f6d2b9d8e11".encode()).decode().rstrip("=")
        )
        assert (await client.get("/api/v1/jobs", params={"cursor": cursor})).status_code in {200, 400}
