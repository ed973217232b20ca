"""Clients that do not read what they asked for, at a server process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from uuid import UUID

import pytest

from shared.artifacts import queries
from shared.config import Settings
from shared.db import Database
from tests import factories
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


Connect = Callable[[], socket.socket]


@pytest.fixture
def connect(server: Server) -> Iterator[Connect]:
    """Connections that hold little on the client's side."""
    made: list[socket.socket] = []

    def connect() -> socket.socket:
        made.append(socket.socket())
        made[-1].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        made[-1].settimeout(20)
        made[-1].connect(("127.0.0.1", server.port))
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


async def cut(server: Server, lines: int = 1) -> list[str]:
    """Waits until so many connections were cut; what the log says of each."""
    deadline = time.monotonic() + _PATIENCE + _MORE
    while time.monotonic() < deadline:
        said = [json.loads(line)["message"] for line in server.log.read_text().splitlines()]
        found = [each for each in said if "took nothing" in each]
        if len(found) >= lines and not open_connections(server):
            return found
        await asyncio.sleep(0.05)
    raise AssertionError(f"{open_connections(server)} connections are open\n{server.log.read_text()}")


async def test_a_download_that_nobody_reads_is_cut(
    server: Server, key: str, picture: str, connect: Connect
) -> None:
    connect().sendall(request(picture, key))
    [said] = await cut(server)
    assert f"took nothing for {_PATIENCE:.0f} s" in said


async def test_answers_that_nobody_reads_are_cut(server: Server, key: str, connect: Connect) -> None:
    """They are complete, for the server; what was made of them lies in its memory."""
    connect().sendall(request("/openapi.json", key) * 100)
    await cut(server)


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


async def read_all(client: socket.socket, received: bytearray) -> None:
    """The rest of an answer with the picture."""
    while len(received) < len(_PICTURE) or not received.endswith(_PICTURE[-100:]):
        piece = await asyncio.to_thread(client.recv, 1 << 20)
        assert piece, "cut"
        received += piece
    assert received.startswith(b"HTTP/1.1 200")
    assert received.endswith(_PICTURE)
