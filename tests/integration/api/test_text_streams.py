"""Jobs with ``stream``: their text as it is made, from the simulator through a worker and Redis to clients of a server."""

from __future__ import annotations

import asyncio
import importlib
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import httpx
import pytest

from api.app import create_app
from api.shortcut import Application
from scripts.embedded import EmbeddedValkey
from shared.config import Settings
from shared.db import Database
from shared.deltas import MAX_DELTA_CHARS, MAX_KEPT_BYTES, key_of
from shared.events.schemas import DeltaView
from shared.wakeups import Wakeups
from tests.conftest import SettingsFactory
from tests.contract.conftest import RunningSimulator, simulator
from tests.integration.api.conftest import bearer, problem
from tests.integration.worker.conftest import Scripted, Worker, Workers, said, workers
from tests.patience import PATIENCE
from tests.serving import serving
from worker.deltas import DeltaSender

__all__ = ["simulator", "workers"]


@pytest.fixture
def settings(make_settings: SettingsFactory, simulator: RunningSimulator) -> Settings:
    return make_settings(
        simulator_url=simulator.url,
        retry_base_seconds=0.001,
        retry_cap_seconds=0.001,
        # A cancel must come as a wake-up.
        lease_seconds=60,
        lease_renew_seconds=30,
        stream_idle_timeout=0.9,
    )


@pytest.fixture
async def http(app: Application, key: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server on a real socket, in this process."""
    async with serving(app) as port:
        base = f"http://127.0.0.1:{port}/api/v1"
        async with httpx.AsyncClient(base_url=base, headers=bearer(key), timeout=20) as client:
            yield client


@pytest.fixture
async def worker(workers: Workers) -> AsyncIterator[Worker]:
    importlib.import_module("shared.providers.gemini")  # it takes a second, as at a real worker's start
    async with workers() as made:
        yield made


class Follower:
    """What a client of a job's stream has been told, kept as the documentation says."""

    def __init__(self, response: httpx.Response) -> None:
        self._lines = response.aiter_lines()
        self.text = ""
        self.attempt = 0
        #: Pairs of attempt and offset, the time of each, and the names of all events in order.
        self.deltas: list[tuple[int, int]] = []
        self.times: list[float] = []
        self.names: list[str] = []

    async def next(self, seconds: float = PATIENCE) -> dict[str, Any]:
        fields: dict[str, str] = {}
        async with asyncio.timeout(seconds):
            async for line in self._lines:
                if not line and "data" in fields:
                    break
                name, _, value = line.partition(": ")
                fields[name] = value
            else:
                raise EOFError
        data: dict[str, Any] = json.loads(fields["data"])
        self.names.append(fields["event"])
        if fields["event"] == "delta":
            assert "id" not in fields
            DeltaView.model_validate(data)
            self._take(data)
        return data

    async def until(self, name: str, seconds: float = PATIENCE) -> dict[str, Any]:
        async with asyncio.timeout(seconds):
            while True:
                data = await self.next()
                if self.names[-1] == name:
                    return data

    def _take(self, data: dict[str, Any]) -> None:
        if data["attempt"] != self.attempt:
            self.attempt, self.text = data["attempt"], ""
        self.deltas.append((data["attempt"], data["offset"]))
        self.times.append(time.monotonic())
        self.text = self.text[: data["offset"]] + data["text"]


@asynccontextmanager
async def following(http: httpx.AsyncClient, job_id: str) -> AsyncIterator[Follower]:
    async with http.stream("GET", f"/jobs/{job_id}/events") as response:
        assert response.status_code == 200
        yield Follower(response)


async def submit(http: httpx.AsyncClient, prompt: str, **more: Any) -> str:
    body = {"kind": "text.generate", "input": {"prompt": prompt}, "stream": True, **more}
    answer = await http.post("/jobs", json=body)
    assert answer.status_code == 202, answer.text
    assert answer.json()["stream"] is True
    job_id: str = answer.json()["id"]
    return job_id


async def result_of(http: httpx.AsyncClient, job_id: str) -> str:
    text: str = (await http.get(f"/jobs/{job_id}/result")).json()["result"]["text"]
    return text


async def test_text_is_told_as_it_is_made(http: httpx.AsyncClient, worker: Worker) -> None:
    job_id = await submit(http, "A story [[sim:latency=1.0]]")
    async with following(http, job_id) as client:
        running = asyncio.create_task(worker.run(UUID(job_id)))
        await client.until("job.succeeded")
    await running

    assert client.names[:2] == ["job.queued", "job.running"]
    assert client.text == await result_of(http, job_id)
    # Six parts over six tenths of a second: on a busy machine, some of them may come together.
    assert len(client.deltas) >= 3
    assert client.deltas[0] == (1, 0)
    assert client.times[-1] - client.times[0] > 0.15


async def test_who_comes_late_gets_what_there_is(http: httpx.AsyncClient, worker: Worker) -> None:
    job_id = await submit(http, "A story [[sim:latency=1.5]]")
    running = asyncio.create_task(worker.run(UUID(job_id)))
    async with following(http, job_id) as first:
        while len(first.deltas) < 3:
            await first.next()
        async with following(http, job_id) as second:
            await second.until("delta")
            assert second.text.startswith(first.text)
            await second.until("job.succeeded")
        await first.until("job.succeeded")
    await running

    assert first.text == second.text == await result_of(http, job_id)
    async with following(http, job_id) as third:
        await third.until("job.succeeded")
    assert third.text == first.text
    assert third.names == ["job.queued", "job.running", "delta", "job.succeeded"]


async def test_another_attempt_begins_the_text_anew(http: httpx.AsyncClient, worker: Worker) -> None:
    job_id = await submit(http, "A story [[sim:latency=0.3]] [[sim:fault=stream-error:503;times=1]]")
    async with following(http, job_id) as client:
        assert await worker.run(UUID(job_id)) == "queued"
        await asyncio.sleep(0.05)
        assert await worker.run(UUID(job_id)) == "succeeded"
        await client.until("job.succeeded")

    assert {attempt for attempt, _ in client.deltas} == {1, 2}
    assert [offset for _, offset in client.deltas].count(0) == 2
    assert client.text == await result_of(http, job_id)
    attempts = (await http.get(f"/jobs/{job_id}?include=attempts")).json()["attempts"]
    assert [attempt["outcome"] for attempt in attempts] == ["failed", "succeeded"]
    # Half of it was made: it may have been billed.
    assert float(attempts[0]["cost_usd"]) > 0


async def test_a_stream_that_is_cut_is_of_unknown_outcome(http: httpx.AsyncClient, worker: Worker) -> None:
    job_id = await submit(http, "A story [[sim:fault=close-midbody]]", on_unknown="fail")
    async with following(http, job_id) as client:
        assert await worker.run(UUID(job_id)) == "failed"
        await client.until("job.failed")

    job = (await http.get(f"/jobs/{job_id}?include=attempts")).json()
    assert job["error"]["code"] == "connection_lost"
    assert job["attempts"][0]["outcome"] == "unknown"
    assert float(job["cost_usd"]) > 0


async def test_cancel_in_the_middle(
    http: httpx.AsyncClient, worker: Worker, simulator: RunningSimulator
) -> None:
    job_id = await submit(http, "A story [[sim:fault=stall-midbody:60]]")
    async with following(http, job_id) as client:
        running = asyncio.create_task(worker.run(UUID(job_id)))
        await client.until("delta")
        begun = time.monotonic()
        await http.post(f"/jobs/{job_id}/cancel")
        await client.until("job.cancelled")
        assert time.monotonic() - begun < 1
    assert await running == "cancelled"
    assert simulator.calls(job_id)["by_outcome"].get("client_left", 0) == 1


async def test_a_silent_stream_ends_before_the_deadline(http: httpx.AsyncClient, worker: Worker) -> None:
    job_id = await submit(http, "A story [[sim:fault=stall-midbody:60]]", on_unknown="fail")
    assert await worker.run(UUID(job_id)) == "failed"
    error = (await http.get(f"/jobs/{job_id}")).json()["error"]
    assert error["code"] == "timeout"
    assert "silent for 0.9 s" in error["message"]


async def test_redis_may_die_in_the_middle(
    http: httpx.AsyncClient, worker: Worker, valkey: EmbeddedValkey
) -> None:
    job_id = await submit(http, "A story [[sim:latency=2.0]]")
    async with following(http, job_id) as client:
        begun = time.monotonic()
        running = asyncio.create_task(worker.run(UUID(job_id)))
        await client.until("delta")
        valkey.kill()
        assert await running == "succeeded"
        assert time.monotonic() - begun < 4.5  # nobody waited for Redis
        await client.until("job.succeeded")
    assert client.text == await result_of(http, job_id)


async def test_a_driver_that_does_not_stream_gives_the_text_in_one_piece(
    http: httpx.AsyncClient, workers: Workers
) -> None:
    async with workers(Scripted(lambda _: said("Hello."))) as worker:
        job_id = await submit(http, "x")
        async with following(http, job_id) as client:
            await worker.run(UUID(job_id))
            await client.until("job.succeeded")
    assert (client.text, client.deltas) == ("Hello.", [(1, 0)])


async def test_a_piece_that_is_too_large_or_was_lost_is_read_from_what_is_kept(
    http: httpx.AsyncClient, workers: Workers, wakeups: Wakeups
) -> None:
    """Played by hand: an attempt whose worker says more at once than is published, and whose key is lost once."""
    parts = ["é" * MAX_DELTA_CHARS, "ü" * 10, "z" * MAX_KEPT_BYTES]
    go_on = [asyncio.Event() for _ in parts]

    async def act(call: Any) -> Any:
        for part, event in zip(parts, go_on, strict=True):
            await event.wait()
            call.on_text(part)
        return said("".join(parts))

    driver = Scripted(act)
    driver.streams = True
    async with workers(driver) as worker:
        job_id = await submit(http, "x")
        key = key_of(UUID(job_id), 1)
        async with following(http, job_id) as client:
            running = asyncio.create_task(worker.run(UUID(job_id)))
            await client.until("job.running")
            go_on[0].set()
            await client.until("delta")
            assert client.text == parts[0]
            await wakeups.redis.delete(key)
            go_on[1].set()
            await client.until("delta")
            assert 0 < await wakeups.redis.ttl(key) <= 400
            go_on[2].set()
            await client.until("job.succeeded")
            await running
        # Kept only for as long as there is no result.
        await asyncio.sleep(0.1)
        assert await wakeups.redis.exists(key) == 0
    assert client.text == "".join(parts)


async def test_nobody_has_to_listen(workers: Workers, http: httpx.AsyncClient, wakeups: Wakeups) -> None:
    async with workers() as worker:
        job_id = await submit(http, "A story")
        assert await worker.run(UUID(job_id)) == "succeeded"
    assert await wakeups.redis.keys("plantain:text:*") == []


async def test_a_slow_sender_is_never_waited_for(wakeups: Wakeups) -> None:
    sender = DeltaSender(wakeups.redis)
    live = sender.open(UUID(int=1), 1, 60)
    begun = time.monotonic()
    for _ in range(10_000):
        live.add("a word ")
    assert time.monotonic() - begun < 3
    await asyncio.sleep(0.2)
    kept = await wakeups.redis.get(key_of(UUID(int=1), 1))
    assert kept == b"a word " * 10_000
    live.end()
    await sender.close()


async def test_the_old_sdk_is_warned_of(make_settings: SettingsFactory, database: Database, key: str) -> None:
    app = create_app(make_settings(gemini_sdk="google-generativeai"))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app=app), base_url="http://api/api/v1", headers=bearer(key)
        ) as client,
    ):
        body = {"kind": "text.generate", "input": {"prompt": "x", "temperature": 1}, "stream": True}
        warnings = (await client.post("/jobs", json=body)).json()["warnings"]
    assert [(warning["pointer"], warning["code"]) for warning in warnings] == [
        ("/input/temperature", "ignored"),
        ("/stream", "in_one_piece"),
    ]


async def test_pictures_come_whole(http: httpx.AsyncClient) -> None:
    body = {"kind": "image.generate", "input": {"prompt": "x"}, "stream": True}
    answer = problem(await http.post("/jobs", json=body), 422, "validation_failed")
    [error] = answer["errors"]
    assert (error["pointer"], error["code"]) == ("/stream", "not_supported")
    assert "gemini-flash" in error["message"]


async def test_a_replay_streams_as_its_source(http: httpx.AsyncClient) -> None:
    job_id = await submit(http, "x")
    assert (await http.post(f"/jobs/{job_id}/replay")).json()["stream"] is True
    assert (await http.post(f"/jobs/{job_id}/replay", json={"stream": None})).json()["stream"] is False
