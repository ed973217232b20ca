"""``Prefer: wait`` on POST /jobs and GET /jobs/{id}."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

from api.deps import Services
from api.shortcut import Application
from scripts.embedded import EmbeddedValkey
from shared.config import Settings
from shared.db import Database
from shared.jobs.status import State
from shared.wakeups import Wakeups
from tests import factories
from tests.conftest import SettingsFactory
from tests.integration.api.conftest import bearer, problem
from tests.integration.api.test_server import Server
from tests.patience import until


@pytest.fixture
def services(app: Application) -> Services:
    made: Services = app.services
    return made


@pytest.fixture
def no_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits looks by itself so seldom that only a wake-up can answer it."""
    monkeypatch.setattr("api.waiting.LOOK_SECONDS", 60)


async def once_it_waits(services: Services, act: Callable[[], Awaitable[Any]]) -> float:
    """Does something as soon as a request waits; answers when that was done."""
    await until(lambda: services.hub.waiting > 0)
    await asyncio.sleep(0.1)
    await act()
    return time.monotonic()


@pytest.mark.usefixtures("no_looks")
async def test_a_wait_ends_when_the_job_does(
    client: httpx.AsyncClient, database: Database, project_id: UUID, services: Services, wakeups: Wakeups
) -> None:
    row = await factories.job(database, project_id, state=State.RUNNING)

    async def finish() -> None:
        await factories.finish(database, row.id, state=State.SUCCEEDED)
        wakeups.changed([(project_id, row.id)])

    async with asyncio.TaskGroup() as group:
        waits = [
            group.create_task(client.get(f"/api/v1/jobs/{row.id}", headers={"Prefer": "wait=20"}))
            for _ in range(20)
        ]
        done = await once_it_waits(services, finish)
        answers = [await wait for wait in waits]
    assert time.monotonic() - done < 10, "the wake-up, not a look by itself"
    assert {answer.json()["state"] for answer in answers} == {"succeeded"}
    assert {answer.headers["preference-applied"] for answer in answers} == {"wait=20"}
    assert "retry-after" not in answers[0].headers
    assert services.hub.waiting == 0


async def test_a_wait_without_an_end_is_answered_in_time(
    client: httpx.AsyncClient, database: Database, project_id: UUID
) -> None:
    row = await factories.job(database, project_id)
    started = time.monotonic()
    answer = await client.get(f"/api/v1/jobs/{row.id}", headers={"Prefer": "wait=1"})
    assert 0.9 < time.monotonic() - started < 2.9, "before a look by itself"
    assert (answer.status_code, answer.json()["state"]) == (200, "queued")
    assert answer.headers["retry-after"] == "1"
    assert answer.headers["preference-applied"] == "wait=1"


async def test_a_final_job_is_answered_at_once_and_a_malformed_preference_ignored(
    client: httpx.AsyncClient, database: Database, project_id: UUID
) -> None:
    final = await factories.job(database, project_id, state=State.FAILED)
    answer = await client.get(f"/api/v1/jobs/{final.id}", headers={"Prefer": "respond-async, wait=600"})
    assert answer.headers["preference-applied"] == "wait=60"
    queued = await factories.job(database, project_id)
    answer = await client.get(f"/api/v1/jobs/{queued.id}", headers={"Prefer": "wait=long"})
    assert "preference-applied" not in answer.headers


@pytest.mark.usefixtures("no_looks")
async def test_with_an_etag_the_next_change_is_waited_for(
    client: httpx.AsyncClient, database: Database, project_id: UUID, services: Services, wakeups: Wakeups
) -> None:
    await factories.worker(database)
    row = await factories.job(database, project_id)
    url = f"/api/v1/jobs/{row.id}"
    known = {"If-None-Match": (await client.get(url)).headers["etag"], "Prefer": "wait=1"}
    assert (await client.get(url, headers=known)).status_code == 304

    async def claim() -> None:
        await factories.claim(database, row.id)
        wakeups.changed([(project_id, row.id)])

    async with asyncio.TaskGroup() as group:
        wait = group.create_task(client.get(url, headers=known | {"Prefer": "wait=20"}))
        await once_it_waits(services, claim)
        answer = await wait
    assert (answer.status_code, answer.json()["state"]) == (200, "running")
    at_once = await client.get(url, headers=known | {"Prefer": "wait=20"})
    assert at_once.json()["state"] == "running"


@pytest.mark.usefixtures("no_looks")
async def test_a_submit_waits_for_its_job(
    client: httpx.AsyncClient, database: Database, project_id: UUID, services: Services
) -> None:
    async def cancel() -> None:
        (job,) = (await client.get("/api/v1/jobs")).json()["items"]
        await client.post(f"/api/v1/jobs/{job['id']}/cancel")

    async with asyncio.TaskGroup() as group:
        headers = {"Prefer": "wait=20"}
        wait = group.create_task(client.post("/api/v1/jobs", json=factories.TEXT_JOB, headers=headers))
        done = await once_it_waits(services, cancel)
        answer = await wait
    assert time.monotonic() - done < 10
    assert (answer.status_code, answer.json()["state"]) == (202, "cancelled")
    assert answer.headers["preference-applied"] == "wait=20"
    assert answer.headers["location"] == f"/api/v1/jobs/{answer.json()['id']}"


async def test_a_waiting_submit_holds_no_room_for_bodies(
    client: httpx.AsyncClient, project_id: UUID, services: Services
) -> None:
    large = factories.TEXT_JOB | {"input": {"prompt": "x" * 500_000}}
    headers = {"Prefer": "wait=2"}
    async with asyncio.TaskGroup() as group:
        wait = group.create_task(client.post("/api/v1/jobs", json=large, headers=headers))
        await asyncio.sleep(1)
        assert services.hub.waiting == 1
        assert services.body_bytes.taken == 0
        assert not services.large_bodies.locked()
    assert (await wait).status_code == 202


async def test_redis_being_away_costs_time_only(
    client: httpx.AsyncClient,
    database: Database,
    project_id: UUID,
    services: Services,
    wakeups: Wakeups,
    valkey: EmbeddedValkey,
) -> None:
    row = await factories.job(database, project_id, state=State.RUNNING)
    valkey.kill()

    async def finish() -> None:
        await factories.finish(database, row.id, state=State.SUCCEEDED)
        started = time.monotonic()
        for _ in range(1000):
            wakeups.changed([(project_id, row.id)])
        assert time.monotonic() - started < 0.5

    async with asyncio.TaskGroup() as group:
        wait = group.create_task(client.get(f"/api/v1/jobs/{row.id}", headers={"Prefer": "wait=20"}))
        done = await once_it_waits(services, finish)
        answer = await wait
    assert answer.json()["state"] == "succeeded"
    assert time.monotonic() - done < 9


async def test_a_redis_that_hangs_holds_up_nobody(
    database: Database, project_id: UUID, wakeups: Wakeups, valkey: EmbeddedValkey
) -> None:
    await wakeups.ping()
    valkey.process.send_signal(signal.SIGSTOP)
    try:
        started = time.monotonic()
        for number in range(20_000):
            wakeups.changed([(project_id, UUID(int=number))])
        await asyncio.sleep(0)
        assert time.monotonic() - started < 0.95, "less than one message may take"
        assert len(wakeups._pending) <= 5000
        await until(lambda: wakeups._telling is None)
        assert not wakeups._pending
    finally:
        valkey.process.send_signal(signal.SIGCONT)


@pytest.mark.usefixtures("no_looks")
async def test_garbage_on_the_channel_ends_no_subscription(
    client: httpx.AsyncClient, database: Database, project_id: UUID, services: Services, wakeups: Wakeups
) -> None:
    row = await factories.job(database, project_id, state=State.RUNNING)

    async def garbage_and_news() -> None:
        await wakeups.redis.publish("plantain:changes", b"what is this?")
        await factories.finish(database, row.id, state=State.SUCCEEDED)
        wakeups.changed([(project_id, row.id)])

    async with asyncio.TaskGroup() as group:
        wait = group.create_task(client.get(f"/api/v1/jobs/{row.id}", headers={"Prefer": "wait=20"}))
        done = await once_it_waits(services, garbage_and_news)
        await wait
    assert time.monotonic() - done < 10


async def test_another_projects_job_is_not_waited_for(client: httpx.AsyncClient, database: Database) -> None:
    row = await factories.job(database, await factories.project(database, "others"))
    answer = await client.get(f"/api/v1/jobs/{row.id}", headers={"Prefer": "wait=20"})
    problem(answer, 404, "job_not_found")


class TestFullHouse:
    @pytest.fixture
    def settings(self, make_settings: SettingsFactory) -> Settings:
        return make_settings(api_max_waiting=1)

    async def test_more_than_the_limit_are_told(
        self, client: httpx.AsyncClient, database: Database, project_id: UUID, services: Services
    ) -> None:
        row = await factories.job(database, project_id)
        headers = {"Prefer": "wait=2"}
        async with asyncio.TaskGroup() as group:
            wait = group.create_task(client.get(f"/api/v1/jobs/{row.id}", headers=headers))
            await until(lambda: services.hub.waiting == 1)
            refused = await client.get(f"/api/v1/jobs/{row.id}", headers=headers)
            assert "1 requests wait" in problem(refused, 503, "too_many_waiting")["detail"]
            assert refused.headers["retry-after"] == "5"
            refused = await client.post("/api/v1/jobs", json=factories.TEXT_JOB, headers=headers)
            problem(refused, 503, "too_many_waiting")
            assert len((await client.get("/api/v1/jobs")).json()["items"]) == 1, "nothing was stored"
        assert (await wait).status_code == 200
        assert (
            await client.post("/api/v1/jobs", json=factories.TEXT_JOB, headers=headers)
        ).status_code == 202


class TestServer:
    @pytest.fixture
    async def server(self, make_settings: SettingsFactory, tmp_path: Path) -> Any:
        made = Server(make_settings(), tmp_path / "api.log", API_MAX_WAITING="1")
        yield made
        if made.process.poll() is None:
            made.process.kill()
            made.process.wait()

    async def test_a_client_that_goes_away_leaves_its_place(
        self, server: Server, database: Database, project_id: UUID, key: str
    ) -> None:
        row = await factories.job(database, project_id)
        url = f"http://127.0.0.1:{server.port}/api/v1/jobs/{row.id}"
        async with httpx.AsyncClient(headers=bearer(key)) as client:
            with pytest.raises(httpx.ReadTimeout):
                await client.get(url, headers={"Prefer": "wait=60"}, timeout=1)
            await asyncio.sleep(0.2)
            answer = await client.get(url, headers={"Prefer": "wait=1"})
            assert answer.status_code == 200
        assert " 499 " in server.log.read_text()

    async def test_told_to_stop_it_answers_who_waits(
        self, server: Server, database: Database, project_id: UUID, key: str
    ) -> None:
        row = await factories.job(database, project_id)
        url = f"http://127.0.0.1:{server.port}/api/v1/jobs/{row.id}"
        async with httpx.AsyncClient(headers=bearer(key)) as client, asyncio.TaskGroup() as group:
            wait = group.create_task(client.get(url, headers={"Prefer": "wait=60"}, timeout=30))
            await asyncio.sleep(0.7)
            started = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            answer = await wait
            assert time.monotonic() - started < 2.9, "at once, not at the next look"
            assert answer.json()["state"] == "queued"
            assert answer.headers["retry-after"] == "1"
        await asyncio.to_thread(server.process.wait, 5)
