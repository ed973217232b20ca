"""Counters, limits, configuration, and what is kept of a request."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from .conftest import SimulatorProcess
from .wire import IMAGE_MODEL, JOB, TEXT_MODEL, body, generate, inline_part, picture, visualize


def request_id(attempt: int, job: str = JOB) -> dict[str, str]:
    return {"x-request-id": f"{job}-{attempt}"}


async def test_calls_by_job_and_attempt(http: httpx.AsyncClient, sim: SimulatorProcess) -> None:
    for attempt in (1, 1, 2):
        await generate(http, headers=request_id(attempt))
    await generate(http, headers=request_id(1, "other"))
    await generate(http)
    await generate(http, {"contents": []})
    counted = sim.calls()
    assert (counted["total"], counted["billed"], counted["billed_again"], counted["jobs"]) == (6, 5, 2, 2)
    assert counted["by_job"] == {JOB: {"1": 2, "2": 1}, "other": {"1": 1}}
    assert counted["by_model"] == {TEXT_MODEL: 6}
    assert counted["by_outcome"] == {"answered": 5, "refused:400": 1}
    assert sim.calls("other")["by_job"] == {"other": {"1": 1}}
    assert sim.calls("nobody")["by_job"] == {}
    assert sim.control("GET", "calls", params={"by_job": "0"})["by_job"] == {}
    sim.control("DELETE", "calls")
    assert sim.calls()["total"] == 0


async def test_a_job_id_without_an_attempt(http: httpx.AsyncClient, sim: SimulatorProcess) -> None:
    plain_uuid = "0199a1b2-c3d4-7e5f-8a9b-123456789012"
    await generate(http, headers={"x-request-id": plain_uuid})
    assert sim.calls()["by_job"] == {plain_uuid: {"0": 1}}


async def test_in_flight_and_a_client_that_leaves(http: httpx.AsyncClient, sim: SimulatorProcess) -> None:
    slow = body("x [[sim:latency=5]]")
    tasks = [asyncio.create_task(generate(http, slow, headers=request_id(n))) for n in range(3)]
    await asyncio.sleep(0.3)
    assert sim.calls()["in_flight"] == 3
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(0.2)
    counted = sim.calls()
    assert (counted["in_flight"], counted["max_in_flight"], counted["client_left"]) == (0, 3, 3)
    assert (counted["billed"], counted["by_outcome"]) == (3, {"client_left": 3})


async def test_many_requests_sleep_at_once(sim: SimulatorProcess) -> None:
    port = int(sim.url.rpartition(":")[2])
    content = json.dumps(body("x [[sim:latency=3]]")).encode()
    head = f"POST /v1/models/{TEXT_MODEL}:generateContent HTTP/1.1\r\nHost: a\r\nx-goog-api-key: k\r\n"
    request = head.encode() + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(content) + content

    async def one() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer[:15]

    answers = await asyncio.gather(*(one() for _ in range(1000)))
    assert set(answers) == {b"HTTP/1.1 200 OK"}
    assert sim.calls()["max_in_flight"] == 1000


async def test_rate_limit(http: httpx.AsyncClient, sim: SimulatorProcess) -> None:
    sim.configure(rpm={TEXT_MODEL: 2}, rate_window=0.5)
    statuses = [(await generate(http)).status_code for _ in range(2)]
    refused = await generate(http)
    assert [*statuses, refused.status_code] == [200, 200, 429]
    failure, info = refused.json()["error"]["details"]
    assert failure["violations"][0]["quotaValue"] == "240", "by the minute"
    assert 0 < float(info["retryDelay"].removesuffix("s")) <= 0.5
    assert (await generate(http, model="gemini-3.5-flash-lite")).status_code == 200
    await asyncio.sleep(float(info["retryDelay"].removesuffix("s")))
    assert (await generate(http)).status_code == 200
    assert sim.calls()["by_outcome"]["rate_limited"] == 1


async def test_rate_limit_of_the_gateway(http: httpx.AsyncClient, sim: SimulatorProcess) -> None:
    sim.configure(rpm=1)
    assert (await visualize(http, prompt="one")).status_code == 200
    error = (await visualize(http, prompt="two")).json()["error"]
    assert (error["code"], error["retryable"]) == ("rate_limited", True)
    assert 0 < error["retry_after_ms"] <= 60_000


@pytest.mark.parametrize("form", ["gemini", "gateway"])
async def test_concurrency_limit(http: httpx.AsyncClient, sim: SimulatorProcess, form: str) -> None:
    sim.configure(concurrency={"*": 2})
    prompt = "x [[sim:latency=0.4]]"

    async def one(number: int) -> int:
        if form == "gemini":
            return (await generate(http, body(prompt))).status_code
        return (await visualize(http, prompt=prompt, seed=number)).status_code

    assert sorted(await asyncio.gather(*(one(number) for number in range(4)))) == [200, 200, 429, 429]
    assert await one(9) == 200


BAD_SETTINGS: list[Any] = [
    {"latency_scale": -1},
    {"latency_scale": "fast"},
    {"picture_weight": "none"},
    {"fault_rates": {"nothing": 0.1}},
    {"fault_rates": {"503": 2}},
    {"colour": "red"},
    {"rpm": "many"},
    [],
]


@pytest.mark.parametrize("changes", BAD_SETTINGS)
async def test_bad_setting_changes_nothing(http: httpx.AsyncClient, changes: Any) -> None:
    before = (await http.get("/sim/config")).json()
    both = {"latency_scale": 3, **changes} if isinstance(changes, dict) else changes
    assert (await http.put("/sim/config", json=both)).status_code == 400
    assert (await http.get("/sim/config")).json() == before


async def test_last_request_shows_the_wire_without_secrets(
    http: httpx.AsyncClient, sim: SimulatorProcess
) -> None:
    value = body("Look", inline_part(picture()), seed=5)
    await generate(http, value, IMAGE_MODEL, request_id(4))
    kept = sim.control("GET", "last-request", params={"job": JOB})
    assert (kept["method"], kept["path"]) == ("POST", f"/v1beta/models/{IMAGE_MODEL}:generateContent")
    assert kept["headers"]["x-request-id"] == f"{JOB}-4"
    assert kept["headers"]["x-goog-api-key"].startswith("sha256:")
    assert kept["body"]["generationConfig"] == {"seed": 5}
    assert kept["body"]["contents"][0]["parts"][1]["inlineData"]["data"].endswith("characters of base64>")
    await visualize(http)
    latest = sim.control("GET", "last-request")
    assert latest["path"] == "/visualize"
    assert latest["headers"]["authorization"].startswith("Bearer sha256:")
    assert "test-key" not in str(kept) + str(latest)


async def test_key_in_the_query_is_not_kept(http: httpx.AsyncClient, sim: SimulatorProcess) -> None:
    await http.post(f"/v1/models/{TEXT_MODEL}:generateContent?key=secret-key", json=body())
    assert "secret-key" not in str(sim.control("GET", "last-request"))
    assert (await http.get("/sim/last-request?job=nobody")).status_code == 404
