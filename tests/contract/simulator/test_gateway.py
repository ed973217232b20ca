"""The gateway form: answers at once and by polling, replays, URLs, its error envelope."""

import asyncio
import base64
import io
from typing import Any

import httpx
import pytest
from PIL import Image

from .conftest import SimulatorProcess
from .wire import BEARER, JOB, decode, picture, visualize


async def final(http: httpx.AsyncClient, first: httpx.Response) -> dict[str, Any]:
    """Poll until the state is final."""
    assert first.status_code == 202
    assert first.json()["status"] in ("queued", "running")
    while True:
        await asyncio.sleep(first.json()["poll_after_ms"] / 1000)
        answer = (await http.get(f"/visualize/{first.json()['id']}", headers=BEARER)).json()
        if answer["status"] not in ("queued", "running"):
            return dict(answer)


async def test_answer_at_once(http: httpx.AsyncClient) -> None:
    answer = (await visualize(http, aspect_ratio="16:9", size="2K", model="nano-banana-pro")).json()
    assert answer["status"] == "succeeded"
    assert answer["model"] == "gemini-3-pro-image"
    (image,) = answer["images"]
    assert decode(image["b64"])[1].size == (image["width"], image["height"]) == (2752, 1536)
    assert image["url"] is None
    assert answer["usage"] == {"input_tokens": 3, "output_tokens": 1120, "images": 1, "cost_usd": None}


@pytest.mark.parametrize("how", ["config", "header", "prompt"])
async def test_202_and_poll(http: httpx.AsyncClient, sim: SimulatorProcess, how: str) -> None:
    prompt, headers = "A plantain [[sim:latency=0.2]]", {}
    if how == "config":
        sim.configure(gateway_mode="poll")
    elif how == "header":
        headers = {"x-sim-gateway": "poll"}
    else:
        prompt += "[[sim:gateway=poll]]"
    first = await visualize(http, headers, prompt=prompt)
    status = (await http.get(f"/visualize/{first.json()['id']}", headers=BEARER)).json()["status"]
    assert status in ("queued", "running")
    answer = await final(http, first)
    assert answer["status"] == "succeeded"
    assert decode(answer["images"][0]["b64"])


async def test_under_a_prefix_and_by_url(http: httpx.AsyncClient, sim: SimulatorProcess) -> None:
    fields = {
        "model": "nano-banana",
        "prompt": "A plantain",
        "response_format": "url",
        "output_format": "jpeg",
    }
    answer = await http.post("/api/v2/visualize", json=fields, headers=BEARER)
    image = answer.json()["images"][0]
    assert image["b64"] is None
    fetched = await http.get(image["url"])
    assert fetched.headers["content-type"] == image["mime_type"] == "image/jpeg"
    assert Image.open(io.BytesIO(fetched.content)).format == "JPEG"
    await http.get(image["url"], headers=BEARER)
    assert sim.calls()["keys_forwarded"] == 1
    assert (await http.get(image["url"] + "x/9.png")).status_code == 404


@pytest.mark.parametrize("mode", ["sync", "poll"])
async def test_idempotency_key_replays_without_a_second_bill(
    http: httpx.AsyncClient, sim: SimulatorProcess, mode: str
) -> None:
    sim.configure(gateway_mode=mode)
    key = {"idempotency-key": f"{JOB}-{1 if mode == 'sync' else 2}"}
    fields = {"prompt": "A plantain [[sim:latency=0.2]]"}
    first, second = await asyncio.gather(visualize(http, key, **fields), visualize(http, key, **fields))
    third = await visualize(http, key, **fields)
    assert first.json()["id"] == second.json()["id"] == third.json()["id"]
    if mode == "sync":
        assert first.json() == second.json() == third.json()
    counted = sim.calls(JOB)
    assert (counted["total"], counted["billed"], counted["replayed"]) == (3, 1, 2)
    assert [*counted["by_job"][JOB].values()] == [3]
    assert [*counted["billed_by_job"][JOB].values()] == [1]
    other = await visualize(http, key, prompt="Something else")
    assert (other.status_code, other.json()["error"]["code"]) == (422, "invalid_request")


async def test_another_attempt_is_another_call(http: httpx.AsyncClient, sim: SimulatorProcess) -> None:
    for attempt in (11, 12):
        await visualize(http, {"idempotency-key": f"{JOB}-{attempt}"})
    assert sim.calls(JOB)["by_job"][JOB] == {"11": 1, "12": 1}
    assert sim.calls()["billed_again"] == 1


async def test_work_goes_on_without_the_client(http: httpx.AsyncClient, sim: SimulatorProcess) -> None:
    fields, key = {"prompt": "Slow [[sim:latency=0.4]]"}, {"idempotency-key": f"{JOB}-21"}
    with pytest.raises(httpx.ReadTimeout):
        async with httpx.AsyncClient(base_url=sim.url, timeout=0.1, verify=False) as hasty:
            await visualize(hasty, key, **fields)
    answer = await visualize(http, key, **fields)
    assert answer.json()["status"] == "succeeded"
    assert (sim.calls()["billed"], sim.calls()["client_left"]) == (1, 1)


async def test_input_images_are_shown(http: httpx.AsyncClient, sim: SimulatorProcess) -> None:
    sim.configure(picture_weight="real")
    data = base64.b64encode(picture(300, 300, "#00ffff", "WEBP")).decode()
    answer = await visualize(
        http, input_images=[{"mime_type": "image/webp", "data": data}], output_format="png"
    )
    image = decode(answer.json()["images"][0]["b64"])[1].convert("RGB")
    pixel = image.getpixel((image.width // 2, int(image.height * 0.47)))
    assert isinstance(pixel, tuple)
    assert all(abs(a - b) < 20 for a, b in zip(pixel, (0, 255, 255), strict=True))


REFUSED: dict[str, tuple[dict[str, Any], int, str]] = {
    "model": ({"model": "dall-e"}, 404, "invalid_request"),
    "text model": ({"model": "gemini-3.8-flash"}, 404, "invalid_request"),
    "prompt": ({"prompt": " "}, 400, "invalid_request"),
    "ratio": ({"aspect_ratio": "5:7"}, 400, "invalid_request"),
    "size": ({"size": "16K"}, 400, "invalid_request"),
    "unknown field": ({"style": "oil"}, 400, "invalid_request"),
    "seed": ({"seed": "seven"}, 400, "invalid_request"),
    "input type": ({"input_images": [{"mime_type": "image/gif", "data": ""}]}, 400, "invalid_request"),
    "input data": ({"input_images": [{"mime_type": "image/png", "data": "%"}]}, 400, "invalid_request"),
    "too many inputs": (
        {"input_images": [{"mime_type": "image/png", "data": ""}] * 15},
        400,
        "invalid_request",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_request_is_refused(http: httpx.AsyncClient, case: str) -> None:
    fields, status, code = REFUSED[case]
    answer = await visualize(http, **fields)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["retryable"]) == (status, code, False)
    assert error["request_id"]
    assert error["message"]


async def test_keys(http: httpx.AsyncClient) -> None:
    for header in ({"authorization": ""}, {"authorization": "Basic a"}, {"authorization": "Bearer invalid"}):
        answer = await visualize(http, header)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthenticated")


async def test_unreadable_input_fails(http: httpx.AsyncClient) -> None:
    data = base64.b64encode(b"not a picture").decode()
    answer = await visualize(http, input_images=[{"mime_type": "image/png", "data": data}])
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")


async def test_unknown_job(http: httpx.AsyncClient) -> None:
    assert (await http.get("/visualize/viz_none", headers=BEARER)).status_code == 404
    assert (await http.get("/visualize/viz_none")).status_code == 401
