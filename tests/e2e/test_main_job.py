"""The main job, from outside: many at once, each once; seen in Flower; with a key, at the provider's address."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.contract.conftest import started_simulator
from tests.integration.scripts.processes import wait_until
from tests.receiver import receiving

from .stack import Up, running_up

pytestmark = pytest.mark.timeout(240)

CANARY = "AIza-canary-2b7e151628aed2a6abf7158809cf4f3c"


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with running_up(tmp_path_factory.mktemp("main") / "data", "--workers", 2) as running:
        yield running
        running.stop()


def api(up: Up) -> httpx.Client:
    return httpx.Client(
        base_url=f"{up.facts['api_url']}/api/v1",
        headers={"Authorization": f"Bearer {up.facts['api_key']}"},
        trust_env=False,
        timeout=30,
    )


def until_final(client: httpx.Client, ids: list[str], seconds: float) -> dict[str, dict[str, Any]]:
    final: dict[str, dict[str, Any]] = {}
    deadline = time.monotonic() + seconds
    while len(final) < len(ids):
        assert time.monotonic() < deadline, f"{len(ids) - len(final)} jobs are not final"
        for job_id in ids:
            if job_id not in final:
                job = client.get(f"/jobs/{job_id}").raise_for_status().json()
                if job["finished_at"]:
                    final[job_id] = job
        time.sleep(0.2)
    return final


def test_a_webhook_tells_of_the_end(up: Up) -> None:
    with api(up) as client, receiving() as receiver:
        secret = client.post("/webhooks/job-secret").raise_for_status().json()["secret"]
        body = {
            "kind": "text.generate",
            "input": {"prompt": "Tell me."},
            "webhook_url": f"{receiver.url}/done",
        }
        job = client.post("/jobs", json=body).raise_for_status().json()["id"]
        wait_until(lambda: bool(receiver.received), 20)
        message = receiver.received[0].verified(secret)
        assert (message["type"], message["data"]) == ("job.succeeded", client.get(f"/jobs/{job}").json())


def test_two_hundred_jobs_at_once_succeed_exactly_once(up: Up) -> None:
    with api(up) as client, httpx.Client(base_url=up.facts["simulator_url"], trust_env=False) as simulator:
        simulator.put("/sim/config", json={"picture_weight": "light"}).raise_for_status()
        simulator.delete("/sim/calls").raise_for_status()

        def submit(number: int) -> str:
            kind, entry = ("image.generate", "a picture") if number % 2 else ("text.generate", "a text")
            body = {"kind": kind, "input": {"prompt": f"{entry} with the number {number}"}}
            answer = client.post("/jobs", json=body)
            assert answer.status_code == 202, answer.text
            return str(answer.json()["id"])

        with ThreadPoolExecutor(32) as pool:
            ids = list(pool.map(submit, range(200)))
        final = until_final(client, ids, seconds=120)
        calls = simulator.get("/sim/calls").json()
    assert Counter((job["kind"], job["state"]) for job in final.values()) == {
        ("text.generate", "succeeded"): 100,
        ("image.generate", "succeeded"): 100,
    }
    assert (calls["total"], calls["billed"], calls["billed_again"]) == (200, 200, 0)
    assert set(calls["by_job"]) == set(ids)


def test_curl_alone_is_enough(up: Up, tmp_path: Path) -> None:
    def curl(path: str, *arguments: str) -> bytes:
        command = ["curl", "-sS", "--fail-with-body", "--noproxy", "*", "-m", "20"]
        bearer = ["-H", f"Authorization: Bearer {up.facts['api_key']}"]
        done = subprocess.run(
            [*command, *bearer, *arguments, up.facts["api_url"] + path], capture_output=True, check=True
        )
        return done.stdout

    wanted = {"prompt": "A plantain in sunglasses", "aspect_ratio": "16:9", "size": "1K"}
    body = json.dumps({"kind": "image.generate", "model": "nano-banana-pro", "input": wanted})
    job = json.loads(curl("/api/v1/jobs", "-H", "Content-Type: application/json", "-d", body))
    wait_until(lambda: json.loads(curl(job["status_url"]))["state"] == "succeeded", 60)
    (image,) = json.loads(curl(job["result_url"]))["result"]["images"]
    data = curl(image["url"])
    assert hashlib.sha256(data).hexdigest() == image["sha256"]
    with Image.open(io.BytesIO(data)) as picture:
        picture.load()
        assert picture.size == (image["width"], image["height"])
        assert picture.width / picture.height == pytest.approx(16 / 9, rel=0.02)


def test_flower_shows_a_job_under_its_own_id(up: Up) -> None:
    flower = httpx.Client(
        base_url=up.facts["flower_url"],
        auth=(up.facts["flower_user"], up.facts["flower_password"]),
        trust_env=False,
        timeout=20,
    )

    def shown(job_id: str) -> bool:
        answer = flower.get(f"/api/task/info/{job_id}")
        return answer.status_code == 200 and answer.json()["state"] == "SUCCESS"

    with flower, api(up) as client:
        job_id = client.post("/jobs", json={"kind": "text.generate", "input": {"prompt": "hello"}}).json()[
            "id"
        ]
        wait_until(lambda: shown(job_id), 30)


def test_a_key_is_sent_to_the_configured_address_and_written_nowhere(tmp_path: Path) -> None:
    with started_simulator("--latency-scale", "0", "--picture-weight", "light") as google:
        variables = {"GEMINI_API_KEY": CANARY, "GEMINI_BASE_URL": google.url, "LOG_LEVEL": "DEBUG"}
        with running_up(tmp_path / "data", "--no-flower", simulator=False, more=variables) as up:
            assert up.facts["simulator_url"] is None
            with api(up) as client:
                bodies = [{"kind": "text.generate", "input": {"prompt": "a text"}}]
                bodies.append({"kind": "image.generate", "input": {"prompt": "a picture"}})
                bodies.append({"kind": "text.generate", "input": {"prompt": "[[sim:fault=400]]"}})
                ids = [client.post("/jobs", json=body).json()["id"] for body in bodies]
                final = until_final(client, ids, seconds=60)
            assert [final[job_id]["state"] for job_id in ids] == ["succeeded", "succeeded", "failed"]
            for job_id in ids:
                headers = google.last_request(job_id)["headers"]
                assert headers["x-goog-api-key"] != CANARY, "the simulator shows a fingerprint only"
                assert hashlib.sha256(CANARY.encode()).hexdigest().startswith(fingerprint(headers))
            up.stop()
        written = [
            path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size < 50_000_000
        ]
        assert any(path.name.startswith("worker") for path in written), "the logs were looked at"
        assert [path for path in written if CANARY.encode() in path.read_bytes()] == []


def fingerprint(headers: dict[str, str]) -> str:
    """The hexadecimal digits by which the simulator names a key (docs/simulator.md)."""
    return headers["x-goog-api-key"].removeprefix("sha256:").rstrip("…")
