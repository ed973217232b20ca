"""GET /artifacts/{id}."""

from __future__ import annotations

from collections.abc import AsyncIterator
from hashlib import sha256
from uuid import UUID

import httpx
import pytest
from sqlalchemy import text

from shared import storage
from shared.db import Database
from tests import factories
from tests.integration.api.conftest import problem

DATA = bytes(range(256)) * 40


@pytest.fixture
async def artifact_id(database: Database, project_id: UUID, client: httpx.AsyncClient) -> AsyncIterator[UUID]:
    row = await factories.job(database, project_id)
    yield await factories.artifact(database, row, DATA)


@pytest.fixture
def url(artifact_id: UUID) -> str:
    return f"/api/v1/artifacts/{artifact_id}"


async def test_the_bytes_come_with_what_a_cache_and_a_browser_need(
    client: httpx.AsyncClient, url: str, artifact_id: UUID
) -> None:
    response = await client.get(url)
    assert response.status_code == 200
    assert response.content == DATA
    assert dict(response.headers) | {"x-request-id": ""} == {
        "content-type": "image/png",
        "content-length": str(len(DATA)),
        "etag": f'"{sha256(DATA).hexdigest()}"',
        "accept-ranges": "bytes",
        "cache-control": "private, max-age=31536000, immutable",
        "content-disposition": f'inline; filename="{artifact_id}.png"',
        "content-security-policy": "default-src 'none'; sandbox",
        "x-content-type-options": "nosniff",
        "x-request-id": "",
    }


async def test_it_is_read_in_slices(
    client: httpx.AsyncClient, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "SLICE_BYTES", 1000)
    assert (await client.get(url)).content == DATA
    response = await client.get(url, headers={"Range": "bytes=999-3001"})
    assert response.content == DATA[999:3002]


@pytest.mark.parametrize(
    ("header", "start", "stop"),
    [
        ("bytes=0-99", 0, 100),
        ("bytes=100-", 100, len(DATA)),
        ("bytes=-1", len(DATA) - 1, len(DATA)),
        ("bytes=-500", len(DATA) - 500, len(DATA)),
        ("bytes=-999999", 0, len(DATA)),
        ("bytes=10000-99999999999999999999999999", 10000, len(DATA)),
        ("bytes=0-0", 0, 1),
    ],
)
async def test_a_range_is_206(
    client: httpx.AsyncClient, url: str, header: str, start: int, stop: int
) -> None:
    response = await client.get(url, headers={"Range": header})
    assert response.status_code == 206
    assert response.content == DATA[start:stop]
    assert response.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(DATA)}"
    assert response.headers["content-length"] == str(stop - start)


@pytest.mark.parametrize(
    "header", ["bytes=10240-", "bytes=99999-100000", "bytes=-0", "bytes=" + "9" * 5000 + "-"]
)
async def test_a_range_outside_is_416(client: httpx.AsyncClient, url: str, header: str) -> None:
    response = await client.get(url, headers={"Range": header})
    problem(response, 416, "range_not_satisfiable")
    assert response.headers["content-range"] == f"bytes */{len(DATA)}"


@pytest.mark.parametrize(
    "header", ["bytes=5-2", "bytes=-", "bytes=a-b", "items=0-1", "bytes=0-1,5-6", "bytes=\u0661-\u0662"]
)
async def test_a_range_that_is_none_is_ignored(client: httpx.AsyncClient, url: str, header: str) -> None:
    response = await client.get(url, headers={b"Range": header.encode()})
    assert (response.status_code, response.content) == (200, DATA)


async def test_if_range_of_another_version_gives_the_whole(client: httpx.AsyncClient, url: str) -> None:
    etag = (await client.head(url)).headers["etag"]
    for value, status in (
        (etag, 206),
        ('"other"', 200),
        (f"W/{etag}", 200),
        ("Mon, 01 Jan 2024 00:00:00 GMT", 200),
    ):
        response = await client.get(url, headers={"Range": "bytes=0-0", "If-Range": value})
        assert response.status_code == status, value


async def test_if_none_match_is_304_even_with_a_range(client: httpx.AsyncClient, url: str) -> None:
    etag = (await client.head(url)).headers["etag"]
    for value in (etag, "*", f'"x", W/{etag}'):
        response = await client.get(url, headers={"If-None-Match": value, "Range": "bytes=0-0"})
        assert (response.status_code, response.content) == (304, b"")
        assert response.headers["etag"] == etag
        assert "immutable" in response.headers["cache-control"]
    assert (await client.get(url, headers={"If-None-Match": '"x"'})).status_code == 200


async def test_head_gives_the_same_headers_and_no_bytes(client: httpx.AsyncClient, url: str) -> None:
    whole, head = await client.get(url), await client.head(url, headers={"Range": "bytes=0-0"})
    assert (head.status_code, head.content) == (200, b"")
    whole.headers.pop("x-request-id")
    head.headers.pop("x-request-id")
    assert head.headers == whole.headers


async def test_another_projects_picture_looks_like_none(
    client: httpx.AsyncClient, database: Database
) -> None:
    row = await factories.job(database, await factories.project(database, "others"))
    artifact_id = await factories.artifact(database, row, DATA)
    for method in ("GET", "HEAD"):
        response = await client.request(method, f"/api/v1/artifacts/{artifact_id}")
        assert response.status_code == 404
    problem(await client.get(f"/api/v1/artifacts/{artifact_id}"), 404, "artifact_not_found")


async def test_bytes_that_were_removed_are_gone(
    client: httpx.AsyncClient, url: str, database: Database
) -> None:
    async with database.transaction() as db:
        await db.execute(text("DELETE FROM artifact_bytes"))
    problem(await client.get(url), 410, "gone")


async def test_what_is_no_picture_is_never_shown_inline(
    client: httpx.AsyncClient, database: Database, project_id: UUID
) -> None:
    row = await factories.job(database, project_id)
    artifact_id = await factories.artifact(database, row, b"<script>", media_type="text/html")
    response = await client.get(f"/api/v1/artifacts/{artifact_id}")
    assert response.headers["content-disposition"].startswith("attachment")
    assert "sandbox" in response.headers["content-security-policy"]
