"""Idempotency-Key: a request that comes again is answered as the first time, and nothing is made twice."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
from PIL import Image
from sqlalchemy import text

from api.app import create_app
from api.shortcut import Application
from shared.checkpoints import arm
from shared.config import Settings
from shared.db import Database
from tests import factories
from tests.integration.api.conftest import bearer, problem

KEY = "8e03978e-40d5-43e8-bc93-6894a57f9324"


def image_job(width: int = 16) -> dict[str, Any]:
    """An edit of a small picture."""
    data = io.BytesIO()
    Image.new("RGB", (width, 9), "green").save(data, "PNG")
    picture = {"data": base64.b64encode(data.getvalue()).decode()}
    return {**factories.IMAGE_JOB, "input": {**factories.IMAGE_JOB["input"], "input_images": [picture]}}


async def submit(
    client: httpx.AsyncClient, key: str = KEY, body: Any = None, **changes: Any
) -> httpx.Response:
    job = {**(body or factories.TEXT_JOB), **changes}
    return await client.post(
        "/api/v1/jobs", json=job, headers=httpx.Headers({"Idempotency-Key": key}, "utf-8")
    )


async def count(database: Database, table: str = "jobs") -> int:
    async with database.transaction() as db:
        return int((await db.execute(text(f"SELECT count(*) FROM {table}"))).scalar_one())


@pytest.fixture
async def other_process(settings: Settings, key: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a second API with the same database: nothing but that is shared."""
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://api", headers=bearer(key)
        ) as client:
            yield client


async def test_the_same_request_again_is_answered_as_the_first_time(
    client: httpx.AsyncClient, other_process: httpx.AsyncClient, database: Database
) -> None:
    first = await submit(client)
    assert first.status_code == 202
    assert "idempotent-replayed" not in first.headers
    async with database.transaction() as db:  # the job moves on; the answer does not
        await db.execute(text("UPDATE jobs SET version = version + 1, attempt = 1"))
    for again in (await submit(client), await submit(other_process)):
        assert again.status_code == 202
        assert again.content == first.content
        assert again.headers["idempotent-replayed"] == "true"
        same = ("location", "etag", "retry-after", "content-type", "cache-control")
        assert [again.headers[name] for name in same] == [first.headers[name] for name in same]
    assert await count(database) == 1
    assert await count(database, "job_events") == 1


async def test_one_key_stands_for_one_request(client: httpx.AsyncClient, database: Database) -> None:
    await submit(client)
    body = problem(await submit(client, priority="batch"), 422, "idempotency_key_reused")
    assert body["errors"][0]["pointer"] == "Idempotency-Key"
    # Not even one that would be refused by itself.
    problem(await submit(client, kind="text.translate"), 422, "idempotency_key_reused")
    assert await count(database) == 1


async def test_the_same_value_written_otherwise_is_the_same_body(client: httpx.AsyncClient) -> None:
    bodies = [
        b'{"kind":"text.generate","input":{"prompt":"gr\xc3\xbcn","seed":7}}',
        b'{ "input": {"seed": 7, "prompt": "gr\\u00fcn"},\n "kind": "text.generate" }',
        b'{"kind":"text.generate","input":{"prompt":"gr\xc3\xbcn","seed":7.0}}',
    ]
    headers = {"Idempotency-Key": KEY, "Content-Type": "application/json"}
    first, written_otherwise, other = [
        await client.post("/api/v1/jobs", content=body, headers=headers) for body in bodies
    ]
    assert first.status_code == 202
    assert written_otherwise.content == first.content
    problem(other, 422, "idempotency_key_reused")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"kind": "text.generate", "input": {}}, 422, "validation_failed"),
        ({"kind": "text.translate", "input": {"prompt": "a"}}, 422, "unknown_kind"),
        ({"kind": "text.generate", "input": {"prompt": " "}}, 422, "validation_failed"),
        (
            {**factories.IMAGE_JOB, "input": {"prompt": "a", "input_images": [{"data": "?"}]}},
            422,
            "validation_failed",
        ),
        ({"deep": 10, "expires_at": "2001-01-01T00:00:00Z"}, 422, "validation_failed"),
    ],
)
async def test_what_is_refused_leaves_its_key_free(
    client: httpx.AsyncClient, database: Database, body: Any, status: int, code: str
) -> None:
    answer = await client.post("/api/v1/jobs", json=body, headers={"Idempotency-Key": KEY})
    problem(answer, status, code)
    assert (await submit(client)).status_code == 202
    assert await count(database) == 1


async def test_a_body_nested_beyond_all_bounds_is_refused_and_no_fault_of_ours(
    client: httpx.AsyncClient,
) -> None:
    body = b'{"kind":"text.generate","input":' + b'{"a":' * 500 + b"1" + b"}" * 500 + b"}"
    headers = {"Idempotency-Key": KEY, "Content-Type": "application/json"}
    problem(await client.post("/api/v1/jobs", content=body, headers=headers), 422, "validation_failed")


async def test_an_answer_outlives_the_time_in_its_request(
    client: httpx.AsyncClient, database: Database
) -> None:
    """A submit whose expires_at has passed is refused; its repetition is not."""
    soon = (datetime.now(UTC) + timedelta(seconds=0.5)).isoformat()
    first = await submit(client, expires_at=soon)
    await asyncio.sleep(0.6)
    again = await submit(client, expires_at=soon)
    assert (again.status_code, again.content) == (202, first.content)
    problem(await submit(client, "another", expires_at=soon), 422, "validation_failed")


async def test_keys_are_those_of_a_project(
    app: Application, client: httpx.AsyncClient, database: Database
) -> None:
    mine = await submit(client)
    same_project = bearer(await factories.key(database))
    other_project = bearer(await factories.key(database, project="other"))
    again = await client.post(
        "/api/v1/jobs", json=factories.TEXT_JOB, headers={**same_project, "Idempotency-Key": KEY}
    )
    assert again.json()["id"] == mine.json()["id"]
    theirs = await client.post(
        "/api/v1/jobs", json=factories.TEXT_JOB, headers={**other_project, "Idempotency-Key": KEY}
    )
    assert theirs.status_code == 202
    assert theirs.json()["id"] != mine.json()["id"]
    assert "idempotent-replayed" not in theirs.headers


@pytest.mark.parametrize(
    ("written", "same"),
    [
        ("key", '"key"'),
        (r"a\b", r'"a\\b"'),
        ('a"b', r'"a\"b"'),
        ("~" * 255, '"' + "~" * 255 + '"'),
        ("key;a=1", '"key;a=1"'),
    ],
)
async def test_a_key_is_the_same_bare_and_quoted(client: httpx.AsyncClient, written: str, same: str) -> None:
    first = await submit(client, written)
    assert first.status_code == 202, first.text
    assert (await submit(client, same)).content == first.content


@pytest.mark.parametrize(
    "written",
    [
        "",
        " ",
        '""',
        '"',
        '"open',
        '"a"b"',
        '"a";p=1',
        "two words",
        '"two words"',
        "~" * 256,
        '"\\x"',
        "a\tb",
        "gr\xfcn",
    ],
)
async def test_what_is_no_key_is_told(client: httpx.AsyncClient, database: Database, written: str) -> None:
    body = problem(await submit(client, written), 400, "invalid_idempotency_key")
    assert body["errors"][0]["pointer"] == "Idempotency-Key"
    assert await count(database) == 0


async def test_two_keys_are_none(client: httpx.AsyncClient) -> None:
    headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    answer = await client.post("/api/v1/jobs", json=factories.TEXT_JOB, headers=headers)
    problem(answer, 400, "invalid_idempotency_key")


async def test_pictures_are_stored_once(client: httpx.AsyncClient, database: Database) -> None:
    body = image_job()
    first = await submit(client, body=body)
    assert first.status_code == 202, first.text
    again = await submit(client, body=body)
    assert again.content == first.content
    assert await count(database, "artifacts") == 1
    other = image_job(17)
    problem(await submit(client, body=other), 422, "idempotency_key_reused")


@pytest.mark.parametrize("pictures", [False, True])
async def test_many_at_once_on_two_processes_make_one_job(
    client: httpx.AsyncClient, other_process: httpx.AsyncClient, database: Database, pictures: bool
) -> None:
    """Whoever does not win is answered as the winner, or told to come again, and then is."""
    body = image_job() if pictures else None
    for round_number in range(1, 11):
        key = f"{KEY}-{round_number}"
        answers = await asyncio.gather(
            *(submit(api, key, body) for _ in range(4) for api in (client, other_process)),
            *(submit(client, f"{key}-{other}", body) for other in range(3)),
        )
        same, others = answers[:8], answers[8:]
        won = [answer for answer in same if answer.status_code == 202]
        assert won
        assert len({answer.content for answer in won}) == 1
        assert len([answer for answer in won if "idempotent-replayed" not in answer.headers]) == 1
        for answer in same:
            if answer.status_code != 202:
                problem(answer, 409, "idempotency_key_in_use")
                assert answer.headers["retry-after"] == "1"
        for api in (client, other_process):
            late = await submit(api, key, body)
            assert (late.content, late.headers["idempotent-replayed"]) == (won[0].content, "true")
        assert [answer.status_code for answer in others] == [202] * 3  # nobody else pays for the race
        assert await count(database) == 4 * round_number


async def test_while_the_first_is_under_way_others_are_told_to_wait(
    client: httpx.AsyncClient,
    other_process: httpx.AsyncClient,
    database: Database,
    tmp_path: Any,
) -> None:
    """Its transaction is held before the commit: neither its own process nor another one makes a second job."""
    (tmp_path / "taken").mkdir()
    (tmp_path / "inserted.hold.any.1").touch()
    arm(tmp_path)
    try:
        first = asyncio.create_task(submit(client))
        while not (held := list((tmp_path / "taken").iterdir())):
            await asyncio.sleep(0.01)
        for api in (client, other_process):
            problem(await submit(api), 409, "idempotency_key_in_use")
            assert (await submit(api, f"another-{id(api)}")).status_code == 202
        held[0].unlink()
        answer = await first
        assert answer.status_code == 202
        assert (await submit(other_process)).content == answer.content
    finally:
        arm(None)
    assert await count(database) == 3


async def test_a_fault_before_the_commit_leaves_the_key_free(
    client: httpx.AsyncClient, database: Database
) -> None:
    async with database.transaction() as db:
        await db.execute(text("ALTER TABLE idempotency_keys ADD CONSTRAINT ck_broken CHECK (status <> 202)"))
    problem(await submit(client), 500, "internal_error")
    assert await count(database) == 0
    async with database.transaction() as db:
        await db.execute(text("ALTER TABLE idempotency_keys DROP CONSTRAINT ck_broken"))
    assert (await submit(client)).status_code == 202
    assert await count(database) == 1


async def test_a_scheduled_job_says_so_in_both_answers(client: httpx.AsyncClient) -> None:
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    first = await submit(client, scheduled_at=later)
    assert (first.json()["waiting_reason"], first.json()["state"]) == ("scheduled", "queued")
    assert UUID(first.json()["id"])
    assert (await submit(client, scheduled_at=later)).content == first.content
