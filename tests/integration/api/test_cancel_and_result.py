"""POST /jobs/{id}/cancel and GET /jobs/{id}/result."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import httpx
import pytest
from redis.asyncio import Redis

from shared.config import Settings
from shared.db import Database
from shared.jobs.schemas import CancelReceipt, JobResult
from shared.jobs.status import State
from shared.wakeups import CANCEL_CHANNEL, CHANGES_CHANNEL
from tests import factories
from tests.integration.api.conftest import problem


async def cancel(client: httpx.AsyncClient, job_id: UUID) -> dict[str, Any]:
    response = await client.post(f"/api/v1/jobs/{job_id}/cancel")
    assert response.status_code == 200, response.text
    receipt: dict[str, Any] = response.json()
    CancelReceipt.model_validate(receipt)
    return receipt


async def test_a_queued_job_is_cancelled_at_once(
    client: httpx.AsyncClient, database: Database, project_id: UUID
) -> None:
    row = await factories.job(database, project_id)
    for _ in range(2):
        receipt = await cancel(client, row.id)
        assert (receipt["outcome"], receipt["provider_called"]) == ("cancelled", False)
        assert receipt["job"]["state"] == "cancelled"
        assert receipt["job"]["version"] == 2


async def test_the_worker_of_a_running_job_is_told(
    client: httpx.AsyncClient, database: Database, project_id: UUID, settings: Settings
) -> None:
    row = await factories.job(database, project_id, state=State.RUNNING)
    await factories.send(database, row.id)
    async with Redis.from_url(settings.redis_url.get_secret_value()) as redis, redis.pubsub() as pubsub:
        await pubsub.subscribe(CANCEL_CHANNEL)
        await pubsub.get_message(timeout=2)
        receipt = await cancel(client, row.id)
        message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=2)
    assert (receipt["outcome"], receipt["provider_called"]) == ("cancel_requested", True)
    assert receipt["job"]["cancel_requested_at"]
    assert message is not None
    assert message["data"].decode() == str(row.id)


async def test_whoever_waits_is_woken_by_a_cancel_that_changes_something_and_by_no_other(
    client: httpx.AsyncClient, database: Database, project_id: UUID, settings: Settings
) -> None:
    first, last = await factories.job(database, project_id), await factories.job(database, project_id)
    async with Redis.from_url(settings.redis_url.get_secret_value()) as redis, redis.pubsub() as pubsub:
        await pubsub.subscribe(CHANGES_CHANNEL)
        await pubsub.get_message(timeout=2)
        for job_id in (first.id, first.id, last.id):
            await cancel(client, job_id)
        told = b""
        while last.id.bytes not in told:
            message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=2)
            assert message is not None
            told += message["data"]
    assert told == project_id.bytes + first.id.bytes + project_id.bytes + last.id.bytes


@pytest.mark.parametrize("state", [State.SUCCEEDED, State.FAILED, State.EXPIRED])
async def test_a_final_job_stays_as_it_is(
    client: httpx.AsyncClient, database: Database, project_id: UUID, state: State
) -> None:
    row = await factories.job(database, project_id, state=state)
    receipt = await cancel(client, row.id)
    assert (receipt["outcome"], receipt["job"]["state"]) == ("already_final", state)


async def test_cancelling_from_many_sides_makes_one_event(
    client: httpx.AsyncClient, database: Database, project_id: UUID
) -> None:
    row = await factories.job(database, project_id)
    receipts = await asyncio.gather(*(cancel(client, row.id) for _ in range(8)))
    assert {receipt["job"]["version"] for receipt in receipts} == {2}


async def test_a_result_is_what_was_made(
    client: httpx.AsyncClient, database: Database, project_id: UUID
) -> None:
    row = await factories.job(
        database, project_id, state=State.SUCCEEDED, result={"text": "green", "json": {"a": 1}}
    )
    response = await client.get(f"/api/v1/jobs/{row.id}/result")
    assert response.json() == {
        "job_id": str(row.id),
        "kind": "text.generate",
        "result": {"text": "green", "json": {"a": 1}},
    }
    JobResult.model_validate(response.json())
    known = {"If-None-Match": response.headers["etag"]}
    assert (await client.get(f"/api/v1/jobs/{row.id}/result", headers=known)).status_code == 304


async def test_pictures_have_the_address_of_their_bytes(
    client: httpx.AsyncClient, database: Database, project_id: UUID
) -> None:
    row = await factories.job(database, project_id)
    artifact_id = await factories.artifact(database, row, b"picture")
    image = {"artifact_id": str(artifact_id), "media_type": "image/png", "byte_size": 7}
    await factories.claim(database, row.id)
    await factories.finish(database, row.id, state=State.SUCCEEDED, result={"images": [image], "text": None})
    (shown,) = (await client.get(f"/api/v1/jobs/{row.id}/result")).json()["result"]["images"]
    assert shown == {**image, "url": f"/api/v1/artifacts/{artifact_id}"}
    assert (await client.get(shown["url"])).content == b"picture"


@pytest.mark.parametrize(
    ("state", "code"),
    [
        (State.QUEUED, "job_not_finished"),
        (State.RUNNING, "job_not_finished"),
        (State.FAILED, "job_failed"),
        (State.CANCELLED, "job_cancelled"),
        (State.EXPIRED, "job_expired"),
    ],
)
async def test_without_a_result_409_says_why(
    client: httpx.AsyncClient, database: Database, project_id: UUID, state: State, code: str
) -> None:
    row = await factories.job(database, project_id, state=state)
    response = await client.get(f"/api/v1/jobs/{row.id}/result")
    body = problem(response, 409, code)
    assert ("retry-after" in response.headers) == (code == "job_not_finished")
    if state is State.FAILED:
        assert "The provider refused." in body["detail"]
    if state is State.CANCELLED:
        assert body["detail"] == "The job was cancelled, so there is no result."
