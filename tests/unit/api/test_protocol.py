"""An answer in one step, connections that are kept, and requests that leave nothing behind: on a real socket."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from api.cycle import cycle_of
from api.render import JsonResponse, Whole
from tests.patience import PATIENCE
from tests.serving import serving

#: Seconds after which an idle connection is closed.
_KEPT = 1


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    assert cycle_of(scope) is not None
    match scope["path"]:
        case "/json":
            answer: Whole = JsonResponse({"a": 1}, headers={"ETag": '"7"', "Cache-Control": "private"})
        case "/unchanged":
            answer = Whole(304, {"ETag": '"7"'})
        case "/hostile":
            answer = Whole(200, {"X-Name": "a\r\nX-Other: b"})
        case "/close":
            answer = JsonResponse({}, headers={"Connection": "close"})
        case _:
            answer = JsonResponse({"path": scope["path"]})
    await answer(scope, receive, send)


class Client:
    """A connection on which bytes are sent as they are."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    def send(self, *requests: str, version: str = "1.1", more: str = "") -> None:
        for request in requests:
            self._writer.write(f"{request} HTTP/{version}\r\nHost: here\r\n{more}\r\n".encode())

    async def answer(self, *, body: bool = True) -> tuple[list[str], bytes]:
        """Status line and headers, and the body."""
        async with asyncio.timeout(PATIENCE):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
            length = [int(line.partition(":")[2]) for line in head if line.startswith("content-length:")]
            return head, await self._reader.readexactly(length[0]) if length and body else b""

    async def rest(self) -> bytes:
        """All that comes until the server closes."""
        async with asyncio.timeout(PATIENCE):
            return await self._reader.read()

    def close(self) -> None:
        self._writer.close()


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with serving(application, server_header=False, timeout_keep_alive=_KEPT) as port:
        made = Client(*await asyncio.open_connection("127.0.0.1", port))
        yield made
        made.close()


async def test_a_whole_answer(client: Client) -> None:
    client.send("GET /json")
    head, body = await client.answer()
    assert head[0] == "HTTP/1.1 200 OK"
    assert head[-1].startswith("date: ")
    assert head[1:-1] == [
        "cache-control: private",
        'etag: "7"',
        "content-type: application/json",
        "content-length: 7",
    ]
    assert body == b'{"a":1}'


async def test_an_answer_without_a_body_has_none_and_the_next_one_is_read_right(client: Client) -> None:
    client.send("HEAD /json", "GET /unchanged", "GET /next")
    head, _ = await client.answer(body=False)
    assert "content-length: 7" in head
    head, _ = await client.answer()
    assert head[0] == "HTTP/1.1 304 Not Modified"
    assert not [line for line in head if line.startswith(("content-length", "transfer-encoding"))]
    assert (await client.answer())[1] == b'{"path":"/next"}'


@pytest.mark.parametrize(
    ("path", "how"),
    [("/json", {"version": "1.0"}), ("/json", {"more": "Connection: close\r\n"}), ("/close", {})],
    ids=["HTTP/1.0", "asked for by the client", "said by the handler"],
)
async def test_a_connection_that_ends_with_its_answer(client: Client, path: str, how: dict[str, Any]) -> None:
    client.send(f"GET {path}", **how)
    head, _ = await client.answer()
    assert [line.lower() for line in head].count("connection: close") == 1
    assert await client.rest() == b""


async def test_no_value_of_a_header_can_become_another_header(client: Client) -> None:
    client.send("GET /hostile")
    head, _ = await client.answer()
    assert head[0] == "HTTP/1.1 500 Internal Server Error"
    assert "X-Other" not in "".join(head)


async def test_another_server_gets_the_same_as_asgi_has_it() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("nothing is read")

    answer = JsonResponse({"a": 1}, headers={"ETag": 'W/"7: 8"'})
    answer.add({"Preference-Applied": "wait=0"})
    with pytest.raises(AttributeError):
        answer.headers["X-Lost"] = "1"  # it would be: these are made when they are asked for
    await answer({"type": "http"}, receive, send)
    assert sent[0]["status"] == 200
    assert dict(sent[0]["headers"]) == {
        b"cache-control": b"no-store",
        b"etag": b'W/"7: 8"',
        b"content-type": b"application/json",
        b"content-length": b"7",
        b"preference-applied": b"wait=0",
    }
    assert sent[1]["body"] == b'{"a":1}'


async def test_a_connection_is_kept_while_it_is_used_and_closed_when_it_is_not(client: Client) -> None:
    for number in range(4):
        client.send(f"GET /{number}")
        await client.answer()
        await asyncio.sleep(_KEPT * 0.5)
    before = time.monotonic()
    client.send("GET /last")
    await client.answer()
    assert await client.rest() == b""
    assert time.monotonic() - before > _KEPT * 0.8


async def test_requests_leave_no_work_for_the_garbage_collector(client: Client) -> None:
    """A scope and a cycle that hold one another are fourteen objects a request, which only a collection frees."""

    async def ask(times: int) -> None:
        for _ in range(times):
            client.send("GET /json")
            await client.answer()

    await ask(20)
    gc.collect()
    gc.disable()
    try:
        await ask(200)
        assert gc.collect() < 200
    finally:
        gc.enable()
