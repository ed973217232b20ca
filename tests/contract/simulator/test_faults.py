"""Every fault by name, on both forms, and the three ways to ask for one."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from scripts.simulator.faults import BODY, CONTENT, DELIVERY, FAULTS, GATEWAY, GEMINI, REFUSAL

from .conftest import ROOT, SimulatorProcess
from .wire import BEARER, IMAGE_MODEL, JOB, TEXT_MODEL, body, decode, generate, inline, text_of, visualize


def names(stage: str, form: str) -> list[str]:
    return [name for name, fault in FAULTS.items() if fault.stage == stage and form in fault.forms]


async def faulty(
    http: httpx.AsyncClient, fault: str, model: str = IMAGE_MODEL, **config: Any
) -> httpx.Response:
    return await generate(http, body("A plantain", **config), model, {"x-sim-fault": fault})


def details(answer: httpx.Response) -> dict[str, Any]:
    """The error's details by the last part of their type."""
    return {one["@type"].rpartition(".")[2]: one for one in answer.json()["error"].get("details", [])}


def test_the_page_names_every_fault() -> None:
    page = (ROOT / "docs" / "simulator.md").read_text()
    documented = dict(re.findall(r"^\| `([^`]+)` \|[^|]*\| (yes|no) \|", page, re.MULTILINE))
    assert documented == {name: "yes" if fault.billed else "no" for name, fault in FAULTS.items()}


# ---- refusals

REFUSALS = {
    "429": (429, "RESOURCE_EXHAUSTED"),
    "429-retryinfo": (429, "RESOURCE_EXHAUSTED"),
    "429-perday": (429, "RESOURCE_EXHAUSTED"),
    "429-spend": (429, "RESOURCE_EXHAUSTED"),
    "400": (400, "INVALID_ARGUMENT"),
    "bad-key": (400, "INVALID_ARGUMENT"),
    "402": (402, "FAILED_PRECONDITION"),
    "403": (403, "PERMISSION_DENIED"),
    "404": (404, "NOT_FOUND"),
    "499": (499, "CANCELLED"),
    "500": (500, "INTERNAL"),
    "503": (503, "UNAVAILABLE"),
    "504": (504, "DEADLINE_EXCEEDED"),
}


@pytest.mark.parametrize("name", names(REFUSAL, GEMINI))
async def test_refusal(http: httpx.AsyncClient, sim: SimulatorProcess, name: str) -> None:
    answer = await faulty(http, name)
    counted = sim.calls()
    assert (counted["billed"], counted["by_outcome"]) == (0, {f"fault:{name}": 1})
    if name == "502-html":
        assert answer.status_code == 502
        assert answer.headers["content-type"].startswith("text/html")
        return
    code, status = REFUSALS[name]
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["status"]) == (code, code, status)
    assert error["message"]


async def test_details_of_429(http: httpx.AsyncClient) -> None:
    per_minute = details(await faulty(http, "429-retryinfo:7.25"))
    assert per_minute["RetryInfo"]["retryDelay"] == "7.25s"
    (violation,) = per_minute["QuotaFailure"]["violations"]
    assert "PerMinute" in violation["quotaId"]
    assert violation["quotaDimensions"]["model"] == IMAGE_MODEL
    per_day = details(await faulty(http, "429-perday"))
    assert "PerDay" in per_day["QuotaFailure"]["violations"][0]["quotaId"]
    assert "RetryInfo" not in per_day
    spent = await faulty(http, "429-spend")
    assert "spend-based" in spent.json()["error"]["message"]
    assert not details(spent)
    assert not details(await faulty(http, "429"))
    assert details(await faulty(http, "bad-key"))["ErrorInfo"]["reason"] == "API_KEY_INVALID"


GATEWAY_REFUSALS = {
    "429": (429, "rate_limited", True),
    "429-retryinfo": (429, "rate_limited", True),
    "429-perday": (429, "rate_limited", True),
    "429-spend": (429, "rate_limited", True),
    "400": (400, "invalid_request", False),
    "bad-key": (401, "unauthenticated", False),
    "402": (402, "insufficient_credit", False),
    "403": (403, "unauthenticated", False),
    "404": (404, "invalid_request", False),
    "499": (499, "internal", True),
    "500": (500, "internal", True),
    "503": (503, "overloaded", True),
    "504": (504, "internal", True),
    "blocked-422": (422, "content_blocked", False),
}


@pytest.mark.parametrize("name", names(REFUSAL, GATEWAY))
async def test_refusal_of_the_gateway(http: httpx.AsyncClient, sim: SimulatorProcess, name: str) -> None:
    answer = await visualize(http, {"x-sim-fault": name})
    assert sim.calls()["billed"] == 0
    if name == "502-html":
        assert answer.status_code == 502
        return
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["retryable"]) == GATEWAY_REFUSALS[name]
    if name == "429-retryinfo":
        assert error["retry_after_ms"] == 2500


# ---- bodies

Call = Callable[[httpx.AsyncClient, str], Awaitable[httpx.Response]]


async def plain(http: httpx.AsyncClient, fault: str) -> httpx.Response:
    return await faulty(http, fault, TEXT_MODEL)


async def streamed(http: httpx.AsyncClient, fault: str) -> httpx.Response:
    path = "/v1beta/models/{model}:streamGenerateContent?alt=sse"
    return await generate(http, headers={"x-sim-fault": fault}, path=path)


async def gateway(http: httpx.AsyncClient, fault: str) -> httpx.Response:
    return await visualize(http, {"x-sim-fault": fault})


BODIES: dict[str, Callable[[bytes], bool]] = {
    "empty-200": lambda content: content == b"",
    "empty-object": lambda content: content == b"{}",
    "malformed-json": lambda content: content.count(b"{") > content.count(b"}"),
    "html-200": lambda content: content.startswith(b"<!DOCTYPE html>"),
}


@pytest.mark.parametrize("call", [plain, streamed, gateway])
@pytest.mark.parametrize("name", names(BODY, GEMINI))
async def test_wrong_body(http: httpx.AsyncClient, sim: SimulatorProcess, name: str, call: Call) -> None:
    answer = await call(http, name)
    assert answer.status_code == 200
    assert BODIES[name](answer.content)
    assert sim.calls()["billed"] == 1


# ---- deliveries


@pytest.mark.parametrize("call", [plain, streamed, gateway])
@pytest.mark.parametrize("name", [name for name in names(DELIVERY, GEMINI) if name != "drip"])
async def test_broken_delivery(http: httpx.AsyncClient, sim: SimulatorProcess, name: str, call: Call) -> None:
    fault = f"{name}:0.3" if name.startswith("stall") else name
    expected = (
        httpx.RemoteProtocolError if name == "close-midbody" else (httpx.ReadError, httpx.RemoteProtocolError)
    )
    started = time.monotonic()
    with pytest.raises(expected):
        await call(http, fault)
    assert (time.monotonic() - started > 0.25) == name.startswith("stall")
    assert sim.calls()["billed"] == 1


@pytest.mark.parametrize("call", [plain, streamed, gateway])
async def test_drip(http: httpx.AsyncClient, call: Call) -> None:
    started = time.monotonic()
    answer = await call(http, "drip:0.4")
    assert time.monotonic() - started > 0.25
    assert answer.status_code == 200
    assert len(answer.content) > 100


async def test_reset_is_a_reset(http: httpx.AsyncClient, sim: SimulatorProcess) -> None:
    port = int(sim.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    content = b'{"model":"nano-banana","prompt":"x [[sim:fault=reset]]"}'
    head = f"POST /visualize HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer k\r\nContent-Length: {len(content)}\r\n\r\n"
    writer.write(head.encode() + content)
    with pytest.raises(ConnectionResetError):
        assert await reader.read() is None
    writer.close()


# ---- contents


def candidate(answer: httpx.Response) -> dict[str, Any]:
    one: dict[str, Any] = answer.json()["candidates"][0]
    return one


def check_draft_thoughts(answer: httpx.Response) -> None:
    parts = candidate(answer)["content"]["parts"]
    assert [part.get("thought", False) for part in parts if "inlineData" in part] == [True, True, False]
    assert decode(parts[-1]["inlineData"]["data"])


def check_truncated_base64(answer: httpx.Response) -> None:
    with pytest.raises(ValueError, match="base64"):
        decode(inline(answer)[0]["data"])


def check_truncated_picture(answer: httpx.Response) -> None:
    with pytest.raises((OSError, SyntaxError)):
        decode(inline(answer)[0]["data"])


def check_not_a_picture(answer: httpx.Response) -> None:
    with pytest.raises(OSError, match="cannot identify"):
        decode(inline(answer)[0]["data"])


def check_jpeg_as_png(answer: httpx.Response) -> None:
    blob = inline(answer)[0]
    assert blob["mimeType"] == "image/png"
    assert decode(blob["data"])[1].format == "JPEG"


def check_no_content(reason: str) -> Callable[[httpx.Response], None]:
    def check(answer: httpx.Response) -> None:
        assert candidate(answer)["finishReason"] == reason
        assert "parts" not in candidate(answer)["content"]
        assert "candidatesTokenCount" not in answer.json()["usageMetadata"]

    return check


def check_block_reason(answer: httpx.Response) -> None:
    assert answer.json()["promptFeedback"]["blockReason"] == "PROHIBITED_CONTENT"
    assert "candidates" not in answer.json()


def check_text_only(answer: httpx.Response) -> None:
    assert candidate(answer)["finishReason"] == "STOP"
    assert text_of(answer)
    assert not inline(answer)


def check_finish_message(answer: httpx.Response) -> None:
    assert candidate(answer)["finishReason"] == "OTHER"
    assert candidate(answer)["finishMessage"]


def check_max_tokens(answer: httpx.Response) -> None:
    assert candidate(answer)["finishReason"] == "MAX_TOKENS"
    assert not inline(answer)


CONTENTS: dict[str, Callable[[httpx.Response], None]] = {
    "no-candidates": lambda answer: _same(answer.json()["candidates"], []),
    "truncated-base64": check_truncated_base64,
    "truncated-picture": check_truncated_picture,
    "not-a-picture": check_not_a_picture,
    "jpeg-as-png": check_jpeg_as_png,
    "wrong-size": lambda answer: _same(decode(inline(answer)[0]["data"])[1].size, (848, 1264)),
    "draft-thoughts": check_draft_thoughts,
    "text-only": check_text_only,
    "no-image": check_no_content("NO_IMAGE"),
    "safety": check_no_content("SAFETY"),
    "finish": check_no_content("IMAGE_SAFETY"),
    "finish-message": check_finish_message,
    "block-reason": check_block_reason,
    "max-tokens": check_max_tokens,
    "unknown-enum": lambda answer: _same(candidate(answer)["finishReason"], "SIMULATED_UNSEEN_REASON"),
    "int-enum": lambda answer: _same(candidate(answer)["finishReason"], 1),
    "bad-json": lambda answer: _same(len(inline(answer)), 1),  # of no consequence for a picture
    "no-usage": lambda answer: _same("usageMetadata" in answer.json(), False),
    "silent-reroute": lambda answer: _same(answer.json()["modelVersion"], "gemini-3.9-flash"),
}


def _same(found: object, wanted: object) -> None:
    assert found == wanted


@pytest.mark.parametrize("name", names(CONTENT, GEMINI))
async def test_wrong_content(http: httpx.AsyncClient, sim: SimulatorProcess, name: str) -> None:
    answer = await faulty(http, name)
    assert answer.status_code == 200
    CONTENTS[name](answer)
    assert sim.calls()["by_outcome"] == {f"fault:{name}": 1}


async def test_wrong_text(http: httpx.AsyncClient) -> None:
    bad = await faulty(http, "bad-json", TEXT_MODEL, responseMimeType="application/json")
    assert text_of(bad) == "This is not JSON {"
    short = await faulty(http, "max-tokens", TEXT_MODEL)
    assert candidate(short)["finishReason"] == "MAX_TOKENS"
    assert text_of(short)
    blocked = await faulty(http, "block-reason:SAFETY", TEXT_MODEL)
    assert blocked.json()["promptFeedback"]["blockReason"] == "SAFETY"


GATEWAY_STATUS = {"no-image": "failed", "safety": "blocked"}


@pytest.mark.parametrize("name", [name for name in names(CONTENT, GATEWAY) if not name.startswith("poll-")])
async def test_wrong_content_of_the_gateway(http: httpx.AsyncClient, name: str) -> None:
    answer = (await visualize(http, {"x-sim-fault": name}, output_format="png")).json()
    assert answer["status"] == GATEWAY_STATUS.get(name, "succeeded")
    image = answer["images"][0] if answer["images"] else {}
    if name in ("no-image", "safety", "no-candidates"):
        assert not image
    elif name == "private-url":
        assert image["url"].startswith("https://10.")
    elif name == "jpeg-as-png":
        assert image["mime_type"] == "image/png"
        assert decode(image["b64"])[1].format == "JPEG"
    elif name in ("truncated-base64", "truncated-picture", "not-a-picture"):
        with pytest.raises((ValueError, OSError, SyntaxError)):
            decode(image["b64"])
    assert ("usage" in answer) == (name != "no-usage")
    if name in GATEWAY_STATUS:
        assert answer["error"]["code"] == {"no-image": "internal", "safety": "content_blocked"}[name]


async def test_polls_that_go_wrong(http: httpx.AsyncClient) -> None:
    async def polled(fault: str) -> tuple[httpx.Response, httpx.Response]:
        first = await visualize(http, {"x-sim-fault": fault})
        assert first.status_code == 202
        await asyncio.sleep(0.1)
        path = f"/visualize/{first.json()['id']}"
        return await http.get(path, headers=BEARER), await http.get(path, headers=BEARER)

    assert [one.status_code for one in await polled("poll-lost")] == [404, 404]
    assert [one.status_code for one in await polled("poll-503")] == [503, 200]
    assert [one.json()["status"] for one in await polled("poll-forever")] == ["running", "running"]


# ---- ways to ask


async def test_times_counts_the_calls_of_a_job(http: httpx.AsyncClient) -> None:
    prompt = "x [[sim:fault=429-retryinfo:2.5;times=1]] [[sim:fault=503;times=2]]"

    async def statuses(job: str) -> list[int]:
        return [
            (await generate(http, body(prompt), headers={"x-request-id": f"{job}-{attempt}"})).status_code
            for attempt in range(1, 6)
        ]

    assert await statuses(JOB) == [429, 503, 503, 200, 200]
    assert await statuses("another-job") == [429, 503, 503, 200, 200]


async def test_a_call_that_was_rate_limited_has_not_met_its_fault(
    http: httpx.AsyncClient, sim: SimulatorProcess
) -> None:
    sim.configure(rpm=0)
    prompt, job = body("x [[sim:fault=503;times=1]]"), {"x-request-id": f"{JOB}-1"}
    assert (await generate(http, prompt, headers=job)).status_code == 429
    sim.configure(rpm=None)
    assert [(await generate(http, prompt, headers=job)).status_code for _ in range(2)] == [503, 200]


async def test_times_counts_by_the_prompt_without_an_id(http: httpx.AsyncClient) -> None:
    prompt = "no id [[sim:fault=500;times=1]]"
    assert [(await generate(http, body(prompt))).status_code for _ in range(3)] == [500, 200, 200]
    assert (await visualize(http, prompt=prompt + "!")).status_code == 500
    assert (await visualize(http, prompt=prompt + "!")).status_code == 200


async def test_directives_do_not_reach_the_answer(http: httpx.AsyncClient) -> None:
    answer = await generate(http, body("Hello [[sim:latency=0.01]] world [[sim:fault=503;times=0]]"))
    assert "You wrote: Hello world" in text_of(answer)
    assert "sim:" not in text_of(answer)


@pytest.mark.parametrize(
    "directive",
    [
        "fault=505",
        "fault=503;times=x",
        "fault=503;often=1",
        "latency=long",
        "gateway=no",
        "colour=red",
        "fault=drip:x",
    ],
)
async def test_directive_that_makes_no_sense(http: httpx.AsyncClient, directive: str) -> None:
    answer = await generate(http, body(f"x [[sim:{directive}]]"))
    assert answer.status_code == 400
    assert "simulator:" in answer.json()["error"]["message"]
    assert (await visualize(http, prompt=f"x [[sim:{directive}]]")).status_code == 400


async def test_rates(http: httpx.AsyncClient, sim: SimulatorProcess) -> None:
    sim.configure(fault_rates={"503": 0.5})
    statuses = [(await generate(http)).status_code for _ in range(60)]
    assert set(statuses) == {200, 503}
    assert 10 <= statuses.count(503) <= 50
    sim.configure(fault_rates=None)
    assert (await generate(http)).status_code == 200


async def test_exact_latency(http: httpx.AsyncClient, sim: SimulatorProcess) -> None:
    sim.configure(latency_scale=1)
    took = []
    for _ in range(5):
        started = time.monotonic()
        await generate(http, body("x [[sim:latency=0.3]]"))
        took.append(time.monotonic() - started)
    assert 0.29 < min(took) < 0.9
