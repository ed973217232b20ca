"""POST /jobs."""

from __future__ import annotations

import asyncio
import base64
import io
import time
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import orjson
import pytest
from PIL import Image
from redis.asyncio import Redis
from sqlalchemy import text

from api import body, budget
from api.shortcut import Application
from shared.config import Settings
from shared.db import Database
from shared.jobs.schemas import JobView
from tests import factories
from tests.conftest import SettingsFactory
from tests.integration.api.conftest import problem


async def submit(client: httpx.AsyncClient, body: Any = None, **changes: Any) -> httpx.Response:
    return await client.post("/api/v1/jobs", json={**(body or factories.TEXT_JOB), **changes})


async def count_jobs(database: Database) -> int:
    async with database.transaction() as db:
        return int((await db.execute(text("SELECT count(*) FROM jobs"))).scalar_one())


async def test_the_answer_is_202_and_the_job_as_it_stands(client: httpx.AsyncClient) -> None:
    response = await submit(client)
    assert response.status_code == 202, response.text
    job = response.json()
    assert job.keys() == JobView.model_fields.keys()
    JobView.model_validate(job)
    assert response.headers["location"] == job["status_url"] == f"/api/v1/jobs/{job['id']}"
    assert job["result_url"] == f"/api/v1/jobs/{job['id']}/result"
    assert job["cancel_url"] == f"/api/v1/jobs/{job['id']}/cancel"
    assert (job["state"], job["attempt"], job["cost_usd"], job["max_attempts"]) == ("queued", 0, "0", 5)
    assert job["created_at"].endswith("Z")
    shown = (await client.get(response.headers["location"])).json()
    assert shown == job | {"queue_position": 1}, "which nobody had asked for yet"


async def test_a_message_reaches_the_queue_of_kind_and_priority(
    client: httpx.AsyncClient, settings: Settings
) -> None:
    job = (await submit(client, factories.IMAGE_JOB, priority="interactive")).json()
    async with Redis.from_url(settings.redis_url.get_secret_value()) as redis:
        (message,) = await redis.lrange("image.interactive", 0, -1)
    envelope = orjson.loads(message)
    assert envelope["headers"]["task"] == "plantain.jobs.run"
    assert orjson.loads(base64.b64decode(envelope["body"]))[0] == [job["id"]]


async def test_many_at_once_each_get_their_own_job(client: httpx.AsyncClient, database: Database) -> None:
    answers = await asyncio.gather(
        *(submit(client, input={"prompt": f"number {number}"}) for number in range(40)),
        submit(client, input={}),
    )
    assert [answer.status_code for answer in answers] == [202] * 40 + [422]
    async with database.transaction() as db:
        stored = {
            row.id: row.prompt
            for row in await db.execute(text("SELECT id, input->>'prompt' AS prompt FROM jobs"))
        }
    for number, answer in enumerate(answers[:-1]):
        assert stored[UUID(answer.json()["id"])] == f"number {number}"


@pytest.mark.parametrize(
    ("fails", "error"),
    [
        ("_ask_workers", ConnectionError("the database went away")),
        ("unpublish", ConnectionError("the database went away")),
        ("unpublish", ValueError("a fault of ours")),
    ],
)
async def test_a_database_that_goes_away_after_the_commit_does_not_take_the_202_back(
    client: httpx.AsyncClient,
    app: Application,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    fails: str,
    error: Exception,
) -> None:
    # A client that is told 503 submits again, and the job would be run and paid for twice.
    services = app.services

    async def away(*_: object) -> object:
        raise error

    async def unsent(told: list[tuple[UUID, str]]) -> list[UUID]:
        return [job_id for job_id, _ in told]

    if fails == "unpublish":
        monkeypatch.setattr("shared.jobs.queries.unpublish", away)
    else:
        monkeypatch.setattr(getattr(services.waiting, fails), "_run", away)
    monkeypatch.setattr(services.doorbell, "ring", unsent)
    assert (await submit(client)).status_code == 202
    assert await count_jobs(database) == 1


async def test_the_model_may_be_left_out(client: httpx.AsyncClient) -> None:
    response = await client.post("/api/v1/jobs", json={"kind": "text.generate", "input": {"prompt": "x"}})
    assert response.json()["model"] == "gemini-flash"


@pytest.mark.parametrize("form", ["once", "keyed", "replay"])
async def test_a_job_names_the_request_that_submitted_it(client: httpx.AsyncClient, form: str) -> None:
    headers = {"X-Request-ID": "trace-42"}
    if form == "keyed":
        headers["Idempotency-Key"] = "k"
    address = "/api/v1/jobs"
    if form == "replay":
        address += f"/{(await submit(client)).json()['id']}/replay"
    body = None if form == "replay" else factories.TEXT_JOB
    response = await client.post(address, json=body, headers=headers)
    assert response.status_code == 202, response.text
    assert response.json()["request_id"] == response.headers["x-request-id"] == "trace-42"
    seen = await client.get(response.headers["location"])
    assert seen.json()["request_id"] == "trace-42"
    assert seen.headers["x-request-id"] not in {"", "trace-42"}, "a poll is another request"


async def test_a_request_id_that_is_not_sane_is_not_kept(client: httpx.AsyncClient) -> None:
    response = await client.post("/api/v1/jobs", json=factories.TEXT_JOB, headers={"X-Request-ID": "x" * 129})
    assert response.json()["request_id"] == response.headers["x-request-id"]
    assert UUID(response.headers["x-request-id"]).version == 7


async def test_a_scheduled_job_waits_for_its_time(client: httpx.AsyncClient, settings: Settings) -> None:
    response = await submit(client, scheduled_at="2100-01-01T00:00:00Z")
    job = response.json()
    assert (job["waiting_reason"], job["waiting_until"]) == ("scheduled", "2100-01-01T00:00:00Z")
    assert 55 <= int(response.headers["retry-after"]) <= 60
    async with Redis.from_url(settings.redis_url.get_secret_value()) as redis:
        assert await redis.llen("text.standard") == 0


async def test_a_parameter_without_effect_is_a_warning(client: httpx.AsyncClient) -> None:
    job = (await submit(client, input={"prompt": "x", "temperature": 0.5})).json()
    (warning,) = job["warnings"]
    assert (warning["pointer"], warning["code"]) == ("/input/temperature", "ignored")


async def test_input_pictures_are_stored_beside_the_job(
    client: httpx.AsyncClient, database: Database
) -> None:
    file = io.BytesIO()
    Image.new("RGB", (3, 2)).save(file, "PNG")
    picture = {"data": base64.b64encode(file.getvalue()).decode(), "media_type": "image/png"}
    response = await submit(
        client, factories.IMAGE_JOB, input={**factories.IMAGE_JOB["input"], "input_images": [picture]}
    )
    assert response.status_code == 202, response.text
    async with database.transaction() as db:
        stored = (await db.execute(text("SELECT role, width, height, byte_size FROM artifacts"))).one()
        job_input = (await db.execute(text("SELECT input FROM jobs"))).scalar_one()
    assert tuple(stored) == ("input", 3, 2, len(file.getvalue()))
    assert "input_images" not in job_input


@pytest.mark.parametrize(
    ("changes", "code", "pointer", "error_code"),
    [
        ({"kind": "video.generate"}, "unknown_kind", "/kind", "not_allowed"),
        ({"model": "nano-banana"}, "unknown_model", "/model", "not_allowed"),
        ({"model": "gpt"}, "unknown_model", "/model", "not_allowed"),
        ({"priority": "urgent"}, "validation_failed", "/priority", "enum"),
        ({"prompt": "x"}, "validation_failed", "/prompt", "extra_forbidden"),
        ({"max_attempts": 0}, "validation_failed", "/max_attempts", "greater_than_equal"),
        ({"max_attempts": 10**30}, "validation_failed", "/max_attempts", "less_than_equal"),
        ({"timeout": "soon"}, "validation_failed", "/timeout", "float_type"),
        ({"timeout": "5"}, "validation_failed", "/timeout", "float_type"),
        ({"timeout": True}, "validation_failed", "/timeout", "float_type"),
        ({"max_attempts": "3"}, "validation_failed", "/max_attempts", "int_type"),
        ({"max_attempts": 2.5}, "validation_failed", "/max_attempts", "int_type"),
        ({"scheduled_at": 1_900_000_000}, "validation_failed", "/scheduled_at", "value_error"),
        ({"scheduled_at": "1900000000"}, "validation_failed", "/scheduled_at", "value_error"),
        ({"scheduled_at": "2100-01-01"}, "validation_failed", "/scheduled_at", "value_error"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "validation_failed", "/expires_at", "in_the_past"),
        ({"model": ""}, "unknown_model", "/model", "not_allowed"),
        ({"input": {"prompt": "x", "seed": True}}, "validation_failed", "/input/seed", "int_type"),
        (
            {"input": {"prompt": "x", "max_output_tokens": "7"}},
            "validation_failed",
            "/input/max_output_tokens",
            "int_type",
        ),
        ({"input": {"prompt": "x", "system": " \n"}}, "validation_failed", "/input/system", "empty"),
        (
            {"input": {"messages": [{"role": "user", "text": " "}]}},
            "validation_failed",
            "/input/messages/0/text",
            "empty",
        ),
        ({"scheduled_at": "2026-01-01T00:00:00"}, "validation_failed", "/scheduled_at", "timezone_aware"),
        ({"scheduled_at": "0001-01-01T00:00:00+14:00"}, "validation_failed", "/scheduled_at", "value_error"),
        ({"expires_at": "9999-12-31T23:59:59-14:00"}, "validation_failed", "/expires_at", "value_error"),
        ({"input": {}}, "validation_failed", "/input", "value_error"),
        ({"input": {"prompt": " "}}, "validation_failed", "/input/prompt", "empty"),
        ({"input": {"prompt": "x\u0000y"}}, "validation_failed", "/input", "null_character"),
        ({"input": {"prompt": "x", "stop": ["\u0000"]}}, "validation_failed", "/input", "null_character"),
        (
            {"input": {"prompt": "x", "response_schema": {"\u0000": 1}}},
            "validation_failed",
            "/input",
            "null_character",
        ),
        ({"input": {"prompt": 5}}, "validation_failed", "/input/prompt", "string_type"),
        ({"input": {"prompt": "x", "seed": 1e30}}, "validation_failed", "/input/seed", "less_than_equal"),
        ({"input": {"prompt": "x", "colour": 1}}, "validation_failed", "/input/colour", "extra_forbidden"),
        (
            {"input": {"prompt": "x", "thinking_level": "max"}},
            "validation_failed",
            "/input/thinking_level",
            "not_allowed",
        ),
        (
            {"input": {"prompt": "x", "response_schema": {"allOf": [{}] * 600}}},
            "validation_failed",
            "/input/response_schema",
            "too_large",
        ),
        (
            {"input": {"prompt": "x", "response_schema": {"type": 5}}},
            "validation_failed",
            "/input/response_schema/type",
            "invalid_schema",
        ),
        ({"input": ["prompt"]}, "validation_failed", "/input", "dict_type"),
    ],
)
async def test_what_is_not_allowed_is_named(
    client: httpx.AsyncClient,
    database: Database,
    changes: dict[str, Any],
    code: str,
    pointer: str,
    error_code: str,
) -> None:
    body = problem(await submit(client, **changes), 422, code)
    assert (pointer, error_code) in [(entry["pointer"], entry["code"]) for entry in body["errors"]], body
    assert all(entry["message"] for entry in body["errors"])
    assert await count_jobs(database) == 0


async def test_what_the_published_schema_allows_is_taken(client: httpx.AsyncClient) -> None:
    response = await submit(
        client,
        input={"prompt": "x", "seed": 7.0, "max_output_tokens": 7, "stop": ["\n"]},
        priority="batch",
        on_unknown="fail",
        timeout=5,
        max_attempts=2,
        scheduled_at="2100-01-01t00:00:00.5+01:00",
        expires_at="2100-01-02T00:00:00Z",
    )
    assert response.status_code == 202, response.text
    assert response.json()["scheduled_at"] == "2099-12-31T23:00:00.500000Z"


async def test_a_job_may_expire_at_any_time_to_come(client: httpx.AsyncClient) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=2)
    assert (await submit(client, expires_at=soon.isoformat())).status_code == 202


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("data:image/png;base64,AAAA", "a URL goes into url"),
        ("https://example.com/a.png", "a URL goes into url"),
        (base64.b64encode(b"\x89PNG\r\n\x1a\nhello").decode(), "no PNG, JPEG, WebP or HEIC"),
    ],
)
async def test_what_is_no_picture_is_told_in_words(client: httpx.AsyncClient, data: str, says: str) -> None:
    response = await submit(
        client, factories.IMAGE_JOB, input={"prompt": "x", "input_images": [{"data": data}]}
    )
    (error,) = problem(response, 422, "validation_failed")["errors"]
    assert (error["pointer"], error["code"]) == ("/input/input_images/0/data", "invalid_image")
    assert says in error["message"]
    assert "\\x" not in error["message"]


async def test_a_size_that_the_model_lacks_lists_those_it_has(client: httpx.AsyncClient) -> None:
    response = await submit(
        client, factories.IMAGE_JOB, input={"prompt": "x", "size": "8K", "aspect_ratio": "1:7"}
    )
    errors = {entry["pointer"]: entry for entry in problem(response, 422, "validation_failed")["errors"]}
    assert errors["/input/size"]["allowed"] == ["1K", "2K", "4K"]
    assert "16:9" in errors["/input/aspect_ratio"]["allowed"]


async def test_every_field_at_fault_is_named_at_once(client: httpx.AsyncClient) -> None:
    body = problem(await client.post("/api/v1/jobs", json={"priority": "x"}), 422, "validation_failed")
    assert {entry["pointer"] for entry in body["errors"]} == {"/kind", "/input", "/priority"}
    (priority,) = (entry for entry in body["errors"] if entry["pointer"] == "/priority")
    assert priority["allowed"] == ["interactive", "standard", "batch"]


async def test_what_a_client_sent_is_not_sent_back(client: httpx.AsyncClient) -> None:
    secret = "s3cret" * 1000
    for changes in (
        {"kind": secret},
        {"model": secret},
        {"priority": secret},
        {"input": {"prompt": {"a": secret}}},
        {"input": {"prompt": "x", "thinking_level": secret}},
        {secret: 1},
    ):
        assert len((await submit(client, **changes)).content) < 2000


async def test_a_flood_of_errors_is_cut(client: httpx.AsyncClient) -> None:
    response = await submit(client, **{f"field{number}": 1 for number in range(90)})
    body = problem(response, 422, "validation_failed")
    assert len(body["errors"]) == 50
    assert "the first 50 errors" in body["detail"]


@pytest.mark.parametrize("number", [101, 5000, 88_000, 300_000])
async def test_more_fields_than_anybody_means_are_one_error(client: httpx.AsyncClient, number: int) -> None:
    flood = {f"field{place}": 1 for place in range(number)}
    for job, pointer in ((flood, ""), ({"kind": "text.generate", "input": flood}, "/input")):
        (error,) = problem(await submit(client, job), 422, "validation_failed")["errors"]
        assert (error["pointer"] if number < 10_000 else pointer) == pointer
        assert error["code"] in {"too_large", "too_long"}


async def test_a_hostile_body_holds_nobody_up(client: httpx.AsyncClient) -> None:
    """A body can make a million objects, or errors, of a few bytes each."""
    flood = (
        b'{"kind":"text.generate","input":{"prompt":"x","stop":[' + b",".join([b"[]"] * 3_000_000) + b"]}}"
    )
    longest = 0.0

    async def watch() -> None:
        nonlocal longest
        while True:
            started = time.monotonic()
            await asyncio.sleep(0.001)
            longest = max(longest, time.monotonic() - started)

    watching = asyncio.create_task(watch())
    response = await client.post("/api/v1/jobs", content=flood, headers={"content-type": "application/json"})
    watching.cancel()
    (error,) = problem(response, 422, "validation_failed")["errors"]
    assert error["code"] == "too_large"
    assert longest < 1, "making the objects alone takes longer"


async def test_a_prompt_may_hold_as_many_commas_and_quotes_as_it_likes(
    client: httpx.AsyncClient, database: Database
) -> None:
    prompt = '\\"[{,' * 100_000
    assert (await submit(client, input={"prompt": prompt})).status_code == 202
    async with database.transaction() as db:
        assert (await db.execute(text("SELECT input->>'prompt' FROM jobs"))).scalar_one() == prompt


async def test_a_job_without_pictures_is_far_smaller_than_one_with(client: httpx.AsyncClient) -> None:
    body = problem(await submit(client, input={"prompt": "x" * 7_000_000}), 413, "payload_too_large")
    assert "without pictures" in body["detail"]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b'{"kind":\n  tru}', "line 2, column 3"),
        (b"", "empty"),
        (b"\xef\xbb\xbf{}", "BOM"),
        (b'{"kind": NaN}', "line 1"),
        (b'{"timeout": Infinity}', "line 1"),
        (b'{"timeout": 1e999}', "infinity"),
        (b'{"kind": "\\ud800"}', "surrogate"),
        (b'{"kind": "\xff"}', "UTF-8"),
        (b'{"kind": "a\x00b"}', "control character"),
        (b"[" * 10_000 + b"]" * 10_000, "depth"),
        (b'{"a":' * 10_000, "depth"),
        (b"{} {}", "after document"),
    ],
)
async def test_a_body_that_is_no_json_is_told_where(
    client: httpx.AsyncClient, body: bytes, says: str
) -> None:
    response = await client.post("/api/v1/jobs", content=body, headers={"content-type": "application/json"})
    assert says in problem(response, 400, "invalid_json")["detail"]


async def test_json_that_is_deep_and_allowed_as_json_is_no_fault_of_ours(client: httpx.AsyncClient) -> None:
    deep: Any = {}
    for _ in range(900):
        deep = {"a": deep}
    response = await submit(client, input={"prompt": "x", "response_schema": deep})
    assert problem(response, 422, "validation_failed")["errors"][0]["code"] == "too_deep"


@pytest.mark.parametrize("body", [b"[]", b'"text"', b"5", b"null", b"true"])
async def test_json_that_is_no_object_is_refused(client: httpx.AsyncClient, body: bytes) -> None:
    response = await client.post("/api/v1/jobs", content=body, headers={"content-type": "application/json"})
    (error,) = problem(response, 422, "validation_failed")["errors"]
    assert (error["pointer"], error["message"]) == ("", "must be a JSON object")


async def test_of_two_keys_that_are_the_same_the_last_counts(client: httpx.AsyncClient) -> None:
    body = b'{"kind":"nonsense","kind":"text.generate","input":{"prompt":"x"}}'
    response = await client.post("/api/v1/jobs", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 202


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "text/plain"},
        {"content-type": ""},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "application/json; charset=utf-16"},
        {"content-type": "application/json", "content-encoding": "gzip"},
    ],
)
async def test_another_content_type_is_refused(client: httpx.AsyncClient, headers: dict[str, str]) -> None:
    response = await client.post("/api/v1/jobs", content=orjson.dumps(factories.TEXT_JOB), headers=headers)
    problem(response, 415, "unsupported_media_type")


@pytest.mark.parametrize(
    "media_type", ["application/json; charset=UTF-8", "Application/JSON", "application/vnd.api+json"]
)
async def test_json_under_its_other_names_is_taken(client: httpx.AsyncClient, media_type: str) -> None:
    response = await client.post(
        "/api/v1/jobs", content=orjson.dumps(factories.TEXT_JOB), headers={"content-type": media_type}
    )
    assert response.status_code == 202


class TestALargeBody:
    @pytest.fixture
    def settings(self, make_settings: SettingsFactory) -> Settings:
        return make_settings(max_body_bytes=2000)

    async def test_is_refused_by_its_declared_length(self, client: httpx.AsyncClient) -> None:
        body = problem(await submit(client, input={"prompt": "x" * 2000}), 413, "payload_too_large")
        assert "2,000 bytes" in body["detail"]

    async def test_is_refused_while_it_streams(self, client: httpx.AsyncClient) -> None:
        sent = 0

        async def stream() -> Any:
            nonlocal sent
            for _ in range(100):
                sent += 100
                yield b" " * 100

        response = await client.post(
            "/api/v1/jobs", content=stream(), headers={"content-type": "application/json"}
        )
        problem(response, 413, "payload_too_large")
        assert response.headers["connection"] == "close"

    async def test_up_to_the_limit_is_taken(self, client: httpx.AsyncClient) -> None:
        body = orjson.dumps(factories.TEXT_JOB).ljust(2000)
        response = await client.post(
            "/api/v1/jobs", content=body, headers={"content-type": "application/json"}
        )
        assert response.status_code == 202


async def test_a_body_that_stops_coming_is_told(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(body, "IDLE_SECONDS", 0.1)

    async def stream() -> Any:
        yield b"{"
        await asyncio.sleep(5)

    headers = {"content-type": "application/json", "content-length": "50"}
    response = await client.post("/api/v1/jobs", content=stream(), headers=headers)
    problem(response, 408, "request_timeout")
    assert response.headers["connection"] == "close"


async def test_where_there_is_no_room_it_is_503(
    app: Application, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "WAIT_SECONDS", 0.1)
    bodies = app.services.body_bytes
    async with bodies.room() as room:
        await room.take(bodies.size)
        for content in (b" " * 100_000, _pieces(100_000)):
            response = await client.post(
                "/api/v1/jobs", content=content, headers={"content-type": "application/json"}
            )
            problem(response, 503, "overloaded")
            assert response.headers["retry-after"] == "5"
        assert (await submit(client)).status_code == 202
    assert bodies.taken == 0


async def _pieces(size: int) -> Any:
    for _ in range(0, size, 1000):
        yield b" " * 1000


class TestAPublicUrl:
    @pytest.fixture
    def settings(self, make_settings: SettingsFactory) -> Settings:
        return make_settings(public_url="https://jobs.example.com/")

    async def test_makes_addresses_whole_and_host_does_not(self, client: httpx.AsyncClient) -> None:
        response = await client.post(
            "/api/v1/jobs", json=factories.TEXT_JOB, headers={"host": "evil.example"}
        )
        job = response.json()
        assert job["status_url"] == f"https://jobs.example.com/api/v1/jobs/{job['id']}"
        assert response.headers["location"] == job["status_url"]
        assert "evil" not in response.text
        assert (await client.get("/nothing")).json()["type"].startswith("https://jobs.example.com/docs#")
