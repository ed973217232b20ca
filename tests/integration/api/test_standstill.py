"""Clients that do not read what they asked for, at a server process of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from uuid import UUID

import httpx
import pytest

from shared.artifacts import queries
from shared.config import Settings
from shared.db import Database
from tests import factories
from tests.integration.api.conftest import bearer
from tests.integration.api.test_server import Server

#: Seconds; and how much more a look may take.
_PATIENCE, _MORE = 1.5, 2.0
_PICTURE = os.urandom(12_000_000)


@pytest.fixture
def server(settings: Settings, tmp_path: Path) -> Iterator[Server]:
    made = Server(settings, tmp_path / "api.log", SEND_TIMEOUT=str(_PATIENCE))
    yield made
    if made.process.poll() is None:
        made.process.kill()
        made.process.wait()


@pytest.fixture
async def picture(database: Database, project_id: UUID) -> str:
    """The path of a picture's bytes, far more than sockets hold."""
    job = await factories.job(database, project_id)
    async with database.transaction() as db:
        await queries.insert(
            db,
            artifact_id=job.id,
            project_id=project_id,
            job_id=job.id,
            role="output",
            position=0,
            media_type="image/png",
            data=_PICTURE,
            digest=sha256(_PICTURE).digest(),
            width=1,
            height=1,
        )
    return f"/api/v1/artifacts/{job.id}"


Connect = Callable[..., socket.socket]


@pytest.fixture
def connect(server: Server) -> Iterator[Connect]:
    """Connections that hold little on the client's side."""
    made: list[socket.socket] = []

    def connect(port: int = server.port, holds: int = 8192) -> socket.socket:
        made.append(socket.socket())
        made[-1].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, holds)
        made[-1].settimeout(20)
        made[-1].connect(("127.0.0.1", port))
        return made[-1]

    yield connect
    for each in made:
        each.close()


def request(path: str, key: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n".encode()


def open_connections(server: Server) -> int:
    """Of the server's process, beside the socket it listens on."""
    tables = (Path(f"/proc/{server.process.pid}/net/tcp").read_text().splitlines())[1:]
    local, established = f"0100007F:{server.port:04X}", "01"
    return sum(1 for row in tables if row.split()[1] == local and row.split()[3] == established)


async def cut(server: Server, seconds: float = _PATIENCE + _MORE) -> None:
    """Waits until the one connection was cut, and for the end of the requests on it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if said(server, "took nothing") and not open_connections(server):
            await asyncio.sleep(0.2)
            assert len(said(server, "took nothing")) == 1
            assert said(server, "xception", "unexpected", "Traceback", "without completing") == []
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"{open_connections(server)} connections are open\n{server.log.read_text()}")


def said(server: Server, *words: str) -> list[str]:
    """The lines of the log with any of these words."""
    return [line for line in server.log.read_text().splitlines() if any(word in line for word in words)]


async def test_a_download_that_nobody_reads_is_cut(
    server: Server, key: str, picture: str, connect: Connect
) -> None:
    connect().sendall(request(picture, key))
    await cut(server)
    assert f"took nothing for {_PATIENCE} s" in said(server, "took nothing")[0]


async def test_answers_that_nobody_reads_are_cut(server: Server, key: str, connect: Connect) -> None:
    """They are complete, for the server; what was made of them lies in its memory."""
    connect().sendall(request("/openapi.json", key) * 100)
    await cut(server)


async def test_a_quiet_stream_that_nobody_reads_is_cut_when_there_is_something_to_take(
    server: Server, key: str, connect: Connect
) -> None:
    """A request behind it is never answered, and does no harm. What the system of a client has taken counts as read."""
    client = connect()
    client.sendall(request("/api/v1/events", key) + request("/api/v1/jobs", key))
    assert (await asyncio.to_thread(client.recv, 1000)).startswith(b"HTTP/1.1 200")
    await asyncio.sleep(2 * _PATIENCE)
    assert open_connections(server) == 1
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", headers=bearer(key)) as http:
        deadline = time.monotonic() + 30
        while not said(server, "took nothing") and time.monotonic() < deadline:
            (await http.post("/api/v1/jobs", json=factories.TEXT_JOB)).raise_for_status()
    await cut(server)


async def test_who_falls_behind_a_stream_is_not_cut_as_long_as_it_reads(
    server: Server, key: str, connect: Connect
) -> None:
    """What waits for it grows between any two looks. It reads by itself, however long the submits take."""
    client, made = connect(holds=1024), 0
    client.sendall(request("/api/v1/events", key))
    reading = asyncio.create_task(asyncio.to_thread(read_until, client, time.monotonic() + 4 * _PATIENCE))
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", headers=bearer(key)) as http:
        while not reading.done():
            jobs = [factories.TEXT_JOB] * 50
            (await http.post("/api/v1/batches", json={"jobs": jobs})).raise_for_status()
            made += len(jobs)
            await asyncio.sleep(0.1)
    assert await reading < 150 * made, "it is behind"
    assert said(server, "took nothing") == []
    assert open_connections(server) == 1


def read_until(client: socket.socket, end: float) -> int:
    """Slowly, but between two looks more than the system takes without a word to the other side. How many bytes."""
    read = 0
    while time.monotonic() < end:
        read += len(client.recv(100))
        time.sleep(0.02)
    return read


async def test_who_reads_slowly_gets_all(server: Server, key: str, picture: str, connect: Connect) -> None:
    """For longer than the patience, with pauses that are shorter."""
    client, began = connect(), time.monotonic()
    client.sendall(request(picture, key))
    received = bytearray()
    while time.monotonic() < began + 3 * _PATIENCE:
        received += await asyncio.to_thread(client.recv, 100_000)
        await asyncio.sleep(_PATIENCE / 5)
    await read_all(client, received)


async def test_a_server_that_stood_still_blames_nobody(
    server: Server, key: str, picture: str, connect: Connect
) -> None:
    client = connect()
    client.sendall(request(picture, key))
    received = bytearray(await asyncio.to_thread(client.recv, 1000))
    await asyncio.sleep(_PATIENCE / 3)
    server.process.send_signal(signal.SIGSTOP)
    await asyncio.sleep(2 * _PATIENCE)
    server.process.send_signal(signal.SIGCONT)
    await read_all(client, received)


async def test_nobody_waits_for_them_at_a_shutdown(
    settings: Settings, tmp_path: Path, key: str, picture: str, connect: Connect, server: Server
) -> None:
    """With the patience that is usual."""
    usual = Server(settings, tmp_path / "usual.log")
    try:
        for path in (picture, picture, "/api/v1/events"):
            client = connect(usual.port)
            client.sendall(request(path, key))
            assert (await asyncio.to_thread(client.recv, 100)).startswith(b"HTTP/1.1 200")
        began = time.monotonic()
        usual.process.terminate()
        assert await asyncio.to_thread(usual.process.wait, 30) == -signal.SIGTERM
        assert 2 < time.monotonic() - began < 15
        assert said(usual, "xception", "Traceback", "exceeded") == []
    finally:
        usual.process.kill()
        usual.process.wait()


async def read_all(client: socket.socket, received: bytearray) -> None:
    """The rest of an answer with the picture."""
    while len(received) < len(_PICTURE) or not received.endswith(_PICTURE[-100:]):
        piece = await asyncio.to_thread(client.recv, 1 << 20)
        assert piece, "cut"
        received += piece
    assert received.startswith(b"HTTP/1.1 200")
    assert received.endswith(_PICTURE)
