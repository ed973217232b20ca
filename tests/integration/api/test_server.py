"""``python -m api`` as a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import pytest

from scripts import ports
from shared.config import Settings
from shared.db import Database
from tests import factories
from tests.conftest import ROOT
from tests.integration.api.conftest import bearer


def environment(settings: Settings, **more: str) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "REDIS_URL": settings.redis_url.get_secret_value(),
        **more,
    }


class Server:
    def __init__(self, settings: Settings, log: Path, *, under: Sequence[str] = (), **more: str) -> None:
        # Claimed: a server of another test that starts at this moment must not be taken for this one.
        self.port = ports.claim_next(ports.free_port())
        self.log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [*under, sys.executable, "-m", "api"],
                cwd=ROOT,
                env=environment(
                    settings, API_PORT=str(self.port), LOG_FORMAT="json", LOG_LEVEL="DEBUG", **more
                ),
                stdout=output,
                stderr=output,
            )
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                time.sleep(0.05)
            else:
                return
        raise AssertionError(log.read_text())


@pytest.fixture
def server(settings: Settings, tmp_path: Path) -> Iterator[Server]:
    made = Server(settings, tmp_path / "api.log")
    yield made
    if made.process.poll() is None:
        made.process.kill()
        made.process.wait()


async def test_a_server_serves_and_stops_after_the_last_request(server: Server, database: Database) -> None:
    headers = bearer(await factories.key(database))
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", headers=headers) as client:
        response = await client.post(
            "/api/v1/jobs?", json=factories.TEXT_JOB, headers={"X-Request-ID": "first"}
        )
        assert response.status_code == 202
        assert "server" not in response.headers
        assert (await client.get("/api/v1/jobs?limit=1")).status_code == 200
    # A submit whose body is still on its way when the process is asked to stop.
    body = b'{"kind":"text.generate","input":{"prompt":"x"}}'
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as slow:
        slow.sendall(
            b"POST /api/v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            + f"Authorization: {headers['Authorization']}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            + body[:10]
        )
        time.sleep(0.3)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert server.process.poll() is None
        slow.sendall(body[10:])
        assert slow.recv(100).startswith(b"HTTP/1.1 202")
    assert server.process.wait(10) in {0, -signal.SIGTERM}
    log = server.log.read_text()
    assert '"request_id":"first"' in log
    assert "limit=1" not in log
    assert headers["Authorization"].partition(" ")[2] not in log
    assert "Traceback" not in log


@pytest.mark.parametrize(("proxies", "named"), [("127.0.0.0/8", "203.0.113.7"), ("10.0.0.1", "127.0.0.1")])
async def test_whom_the_log_names_is_set(
    settings: Settings, database: Database, tmp_path: Path, proxies: str, named: str
) -> None:
    """On the way of a submit and on that of everything else; both have the headers of all answers."""
    server = Server(settings, tmp_path / "api.log", FORWARDED_ALLOW_IPS=proxies)
    headers = bearer(await factories.key(database)) | {"X-Forwarded-For": "203.0.113.7"}
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", headers=headers) as client:
            answers = [
                await client.post("/api/v1/jobs", json=factories.TEXT_JOB, headers={"X-Request-ID": "first"}),
                await client.get("/api/v1/nothing", headers={"X-Request-ID": "second"}),
            ]
    finally:
        server.process.kill()
        server.process.wait()
    assert [answer.status_code for answer in answers] == [202, 404]
    assert [answer.headers["x-request-id"] for answer in answers] == ["first", "second"]
    assert [answer.headers["x-content-type-options"] for answer in answers] == ["nosniff"] * 2
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    assert [line["message"].split()[0] for line in lines if line["logger"] == "api.access"] == [named] * 2


async def test_a_body_over_the_limit_is_told_to_a_client_that_does_not_wait(
    server: Server, database: Database
) -> None:
    headers = bearer(await factories.key(database)) | {"Content-Type": "application/json"}
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", headers=headers) as client:
        response = await client.post("/api/v1/jobs", content=b" " * 31_000_000)
        assert response.status_code == 413
        assert "30,000,000 bytes" in response.json()["detail"]


async def test_bodies_that_never_end_fill_no_memory_and_let_others_through(
    server: Server, database: Database
) -> None:
    headers = bearer(await factories.key(database)) | {"Content-Type": "application/json"}
    head = "POST /api/v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 29000000\r\n" + "".join(
        f"{name}: {value}\r\n" for name, value in headers.items()
    )

    async def hold() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        try:
            writer.write(head.encode() + b"\r\n")
            for _ in range(280):
                writer.write(b" " * 100_000)
                await writer.drain()
            return await reader.read(12)
        except ConnectionError:
            return b""
        finally:
            writer.transport.abort()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    before = memory(server)
    holders = [asyncio.create_task(hold()) for _ in range(12)]
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", headers=headers) as client:
        for _ in range(20):
            assert (await client.post("/api/v1/jobs", json=factories.TEXT_JOB)).status_code == 202
            await asyncio.sleep(0.1)
    # Four bodies, and little more: the others wait at their clients.
    assert memory(server) - before < 200_000_000
    for task in holders:
        task.cancel()
    await asyncio.gather(*holders, return_exceptions=True)


def memory(server: Server) -> int:
    """Bytes that the server has in memory."""
    found = subprocess.run(
        ["ps", "-o", "rss=", "-p", str(server.process.pid)], capture_output=True, text=True, check=True
    )
    return int(found.stdout) * 1024


async def test_headers_without_end_are_cut(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
        try:
            for _ in range(3000):
                client.sendall(b"x-header: " + b"a" * 1000 + b"\r\n")
            answer = client.recv(100)
        except ConnectionError:
            answer = b""  # cut before we had sent it all
    assert answer == b"" or answer.startswith(b"HTTP/1.1 431")


async def test_an_answer_that_is_owed_comes_before_the_end_of_what_is_no_http(
    server: Server, database: Database
) -> None:
    key = await factories.key(database)
    body = b'{"kind":"text.generate","input":{"prompt":"x"}}'
    submit = (
        "POST /api/v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {key}\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(submit + b"this is no HTTP\r\n\r\n")
        answer = b""
        while piece := client.recv(1 << 16):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 202")
    assert answer.count(b"HTTP/1.1") == 1
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(b"this is no HTTP\r\n\r\n")
        head, _, problem = client.recv(1 << 16).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad request\r\ncontent-type: application/problem+json")
    assert json.loads(problem)["code"] == "bad_request"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_limit_of_open_files_is_raised_or_told(settings: Settings, tmp_path: Path) -> None:
    def limited(soft: int, hard: int) -> str:
        log = tmp_path / f"{hard}.log"
        limit = ["prlimit", f"--nofile={soft}:{hard}"]
        server = Server(settings, log, under=limit, API_MAX_WAITING="2000")
        found = Path(f"/proc/{server.process.pid}/limits").read_text(encoding="utf-8")
        server.process.kill()
        server.process.wait()
        [line] = [line for line in found.splitlines() if line.startswith("Max open files")]
        assert line.split()[3:5] == [str(hard), str(hard)]
        return log.read_text(encoding="utf-8")

    assert "limit of open files" not in limited(256, 4096)
    assert "the limit of open files is 1024, and API_MAX_WAITING=2000 needs 2100" in limited(256, 1024)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"DATABASE_URL": ""}, "DATABASE_URL: Field required"),
        ({"REDIS_URL": "http://:hidden@x"}, "REDIS_URL: must start with redis://"),
        ({"API_PORT": "many"}, "API_PORT: Input should be a valid integer"),
    ],
)
def test_wrong_settings_are_one_line_each(
    settings: Settings, tmp_path: Path, change: dict[str, str], says: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "api"],
        cwd=ROOT,
        env=environment(settings, **change),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert "hidden" not in done.stderr
    assert len(done.stderr.splitlines()) == 2
    del tmp_path


def test_the_api_imports_no_provider_sdk_and_no_http_client() -> None:
    code = "import sys, api.app; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"google", "httpx", "httpx2", "httpcore", "alembic", "flower"} & set(done.stdout.split())
