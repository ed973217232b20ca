"""What every answer has in common, and what happens when something breaks."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import time
from collections import defaultdict

import httpx
import pytest
from sqlalchemy import text
from starlette.responses import StreamingResponse
from starlette.routing import Route

from api.methods import Refusal
from api.shortcut import Application
from scripts.embedded import EmbeddedPostgres
from shared.config import Settings
from shared.jobs.service import JobService
from tests import factories
from tests.integration.api.conftest import problem


async def test_an_unknown_address(anonymous: httpx.AsyncClient) -> None:
    body = problem(await anonymous.get("/nothing/here"), 404, "not_found")
    assert body["instance"] == "/nothing/here"


async def test_a_slash_too_many_is_told_and_never_redirected(client: httpx.AsyncClient) -> None:
    body = problem(await client.get("/api/v1/jobs/"), 404, "not_found")
    assert body["detail"] == (
        "Nothing is at this address. Leave out the slash at its end: /api/v1/jobs. /docs lists what there is."
    )


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("DELETE", "/api/v1/jobs", "GET, HEAD, POST"),
        ("POST", "/api/v1/jobs/x", "DELETE, GET, HEAD"),
        ("GET", "/api/v1/jobs/x/cancel", "POST"),
        ("PUT", "/api/v1/artifacts/x", "GET, HEAD"),
        ("POST", "/api/health/live", "GET, HEAD"),
        ("DELETE", "/api/v1/jobs/cancel", "POST"),
        ("GET", "/api/v1/jobs/cancel", "POST"),
        ("DELETE", "/api/v1/jobs/summary", "GET, HEAD"),
    ],
)
async def test_another_method_names_all_that_are_possible(
    client: httpx.AsyncClient, method: str, path: str, allow: str
) -> None:
    response = await client.request(method, path)
    problem(response, 405, "method_not_allowed")
    assert response.headers["allow"] == allow


async def test_head_is_taken_wherever_get_is(
    app: Application, client: httpx.AsyncClient, anonymous: httpx.AsyncClient
) -> None:
    job = (await client.post("/api/v1/jobs", json=factories.TEXT_JOB)).json()
    batch = (await client.post("/api/v1/batches", json={"jobs": [factories.TEXT_JOB]})).json()
    values = defaultdict(lambda: job["id"], name="text.generate", alias="gemini-flash", batch_id=batch["id"])
    gets = [route for route in app.routes if isinstance(route, Route) and not isinstance(route, Refusal)]
    paths = {route.path.format_map(values) for route in gets if "GET" in (route.methods or ())}
    assert len(paths) > 10
    for path in paths:
        head = await client.head(path)
        if path.endswith("/events"):  # what GET answers does not end
            assert head.status_code == 200
            continue
        got = await client.get(path)
        assert (head.status_code, head.headers.get("etag")) == (got.status_code, got.headers.get("etag")), (
            path
        )
        if path.startswith("/api/v1"):
            assert (await anonymous.head(path)).status_code == 401
    assert (await client.head("/api/v1/jobs?nonsense=1")).status_code == 422
    assert (await client.head(f"{job['status_url']}?include=attempts")).status_code == 200


async def test_a_request_is_logged_with_who_and_what(
    client: httpx.AsyncClient, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "api.access"):
        job = (await client.post("/api/v1/jobs", json=factories.TEXT_JOB)).json()
        await client.post(job["cancel_url"])
    lines = [vars(record) for record in caplog.records if record.name == "api.access"]
    assert len(lines) == 2
    for line in lines:
        assert (line["job_id"], line["key"]) == (job["id"], key[4:12])
        assert line["project_id"]


async def test_a_misspelt_parameter_is_refused_everywhere(client: httpx.AsyncClient) -> None:
    for path in ("/api/v1/models", "/api/v1/kinds", "/api/health/ready", "/api/v1/jobs/x", "/docs"):
        body = problem(await client.get(f"{path}?verbos=1"), 422, "unknown_parameter")
        assert body["errors"][0]["pointer"] == "?verbos"


@pytest.mark.parametrize(
    ("sent", "kept"),
    [("abc-1.2:3_4", True), ("a b", False), ("", False), ("x" * 129, False), ("\xe9", False)],
)
async def test_a_sane_request_id_is_kept(anonymous: httpx.AsyncClient, sent: str, kept: bool) -> None:
    response = await anonymous.get("/api/health/live", headers={b"X-Request-ID": sent.encode("latin-1")})
    assert (response.headers["x-request-id"] == sent) is kept
    assert response.headers["x-request-id"]


async def test_what_nobody_foresaw_is_logged_once_with_its_id_and_not_told(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*_: object) -> None:
        raise RuntimeError("the secret inner life")

    monkeypatch.setattr(JobService, "get", fail)
    with caplog.at_level(logging.WARNING):
        response = await client.get(
            "/api/v1/jobs/0198a7c2-6f0e-7c3a-9a53-0f6d2b9d8e11", headers={"X-Request-ID": "mine"}
        )
    body = problem(response, 500, "internal_error")
    assert body["request_id"] == "mine"
    assert "secret" not in response.text
    assert "Traceback" not in response.text
    (record,) = (record for record in caplog.records if record.exc_info)
    assert "unexpected RuntimeError" in record.getMessage()


async def test_an_answer_that_breaks_off_is_logged_and_cut(
    app: Application, anonymous: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    async def pieces() -> object:
        yield b"first"
        raise RuntimeError("broke")

    app.add_api_route("/broken", lambda: StreamingResponse(pieces()))  # type: ignore[arg-type]
    with pytest.raises(AssertionError):  # the transport's own: the answer never ended
        await anonymous.get("/broken")
    assert sum(record.exc_info is not None for record in caplog.records) == 1


async def test_a_database_that_is_away_is_503_at_once_and_comes_back(
    client: httpx.AsyncClient,
    settings: Settings,
    postgres: EmbeddedPostgres,
    caplog: pytest.LogCaptureFixture,
) -> None:
    job = (await client.post("/api/v1/jobs", json=factories.TEXT_JOB)).json()
    postgres.stop()
    started = time.monotonic()
    for response in (
        await client.get(job["status_url"]),
        await client.post("/api/v1/jobs", json=factories.TEXT_JOB),
        await client.get("/api/v1/jobs"),
        await client.get("/api/v1/jobs/summary"),
    ):
        problem(response, 503, "unavailable")
        assert int(response.headers["retry-after"]) > 0
    assert time.monotonic() - started < 8
    assert (await client.get("/api/health/live")).status_code == 200
    postgres.start()
    await asyncio.sleep(1)
    assert (await client.get(job["status_url"])).status_code == 200
    assert (await client.post("/api/v1/jobs", json=factories.TEXT_JOB)).status_code == 202
    begin, end = (record.getMessage() for record in caplog.records if record.name == "shared.db")
    assert begin.startswith("the database cannot be used: ")
    assert "Error" not in begin, "what the driver said, not its class"
    assert end.startswith("the database can be used again")


async def test_a_database_that_hangs_is_503_in_time(
    app: Application, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, postgres: EmbeddedPostgres
) -> None:
    job = (await client.post("/api/v1/jobs", json=factories.TEXT_JOB)).json()
    services = app.services
    for patient in (services.lists, services.waiting, services.jobs._submits, services.jobs._gets):
        monkeypatch.setattr(patient, "_patience", 0.3)
    children = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(postgres.pid)], check=True, capture_output=True, text=True
    )
    pids = [postgres.pid, *map(int, children.stdout.split())]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        problem(await client.get(job["status_url"]), 503, "unavailable")
        problem(await client.get("/api/v1/jobs"), 503, "unavailable")
        problem(await client.get("/api/v1/jobs/summary"), 503, "unavailable")
        problem(await client.post("/api/v1/jobs", json=factories.TEXT_JOB), 503, "unavailable")
        started = time.monotonic()
        ready = await client.get("/api/health/ready")
        assert time.monotonic() - started < 6
        assert ready.status_code == 503
        assert ready.json()["dependencies"]["postgresql"]["state"] == "unavailable"
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    monkeypatch.undo()
    assert (await client.get(job["status_url"])).status_code == 200
    assert (await client.get("/api/v1/jobs/summary")).status_code == 200


async def test_a_connection_that_hangs_is_let_go_of_by_the_summary(
    app: Application, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has one, and whoever comes next would wait for the same for ever."""
    services = app.services
    monkeypatch.setattr(services.lists, "_patience", 0.3)
    [row] = await services.database.counts.execute(text("SELECT pg_backend_pid() AS pid"), {})
    os.kill(row.pid, signal.SIGSTOP)
    try:
        problem(await client.get("/api/v1/jobs/summary"), 503, "unavailable")
        monkeypatch.undo()
        assert (await client.get("/api/v1/jobs/summary")).status_code == 200
    finally:
        os.kill(row.pid, signal.SIGCONT)


async def test_who_waits_long_for_another_count_gets_503(
    app: Application, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = app.services.database.counts
    monkeypatch.setattr(counts._slots, "_seconds", 0.2)
    other = asyncio.create_task(counts.execute(text("SELECT 1 AS n, pg_sleep(1)"), {}))
    await asyncio.sleep(0.1)
    problem(await client.get("/api/v1/jobs/summary"), 503, "unavailable")
    await other
    assert (await client.get("/api/v1/jobs/summary")).status_code == 200
