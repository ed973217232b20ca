"""Our HTTP client against a server that answers byte for byte what a test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping

import pytest

from shared.providers.base import ProviderError, RetryableError
from shared.providers.origin import Answer, Origin
from shared.providers.transport import AnswerTooLargeError, Exchange, guarded
from tests.patience import PATIENCE

pytestmark = pytest.mark.enable_socket


def refused(status: int, body: bytes | bytearray, headers: Mapping[str, str]) -> ProviderError:
    return RetryableError(f"{status}: {bytes(body).decode()}")


class Server:
    """Answers each request with the next of its answers; None closes instead."""

    def __init__(self) -> None:
        self.answers: list[bytes | None] = []
        self.requests: list[bytes] = []
        self.connections = 0
        self.after = "keep"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    (
                        int(line.split(b":")[1])
                        for line in head.lower().split(b"\r\n")
                        if line.startswith(b"content-length")
                    ),
                    0,
                )
                self.requests.append(head + await reader.readexactly(length))
                answer = self.answers.pop(0)
                if answer is None:
                    break
                for start in range(0, len(answer), 7):  # in pieces that end anywhere
                    writer.write(answer[start : start + 7])
                    await asyncio.sleep(0)
                await writer.drain()
                if self.after == "close":
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    listening = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = listening.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
    async with listening:
        yield made
    await asyncio.sleep(0)


@pytest.fixture
async def origin(server: Server) -> AsyncIterator[Origin]:
    made = Origin(f"http://127.0.0.1:{server.port}/base", refused, max_answer_bytes=1_000_000)  # type: ignore[attr-defined]
    yield made
    await made.aclose()


async def ask(origin: Origin, content: bytes = b"{}") -> Answer:
    return await origin.request("POST", "/v1/x", headers={"x-key": "k"}, content=content)


def plain(body: bytes, *lines: str, status: str = "200 OK") -> bytes:
    head = "\r\n".join([f"HTTP/1.1 {status}", *lines, f"content-length: {len(body)}"])
    return head.encode() + b"\r\n\r\n" + body


def chunked(body: bytes) -> bytes:
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
    return b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


async def test_a_request_and_its_answer(server: Server, origin: Origin) -> None:
    server.answers = [plain(b"hello", "X-Two: a", "x-two: b")]
    answer = await ask(origin, b"body")
    assert (answer.status, bytes(answer.content), answer.headers["x-two"]) == (200, b"hello", "a, b")
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /base/v1/x HTTP/1.1\r\nhost: 127.0.0.1:")
    assert b"\r\nx-key: k\r\n" in head
    assert body == b"body"


async def test_connections_are_used_again(server: Server, origin: Origin) -> None:
    server.answers = [plain(b"1"), plain(b"2"), plain(b"3")]
    for number in (b"1", b"2", b"3"):
        assert (await ask(origin)).content == number
    assert server.connections == 1


async def test_one_that_says_close_is_not(server: Server, origin: Origin) -> None:
    server.answers = [plain(b"1", "connection: close"), plain(b"2")]
    assert (await ask(origin)).content == b"1"
    assert (await ask(origin)).content == b"2"
    assert server.connections == 2


async def test_chunks(server: Server, origin: Origin) -> None:
    server.answers = [
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nt: r\r\n\r\n",
        plain(b"next"),
    ]
    assert (await ask(origin)).content == b"hello world"
    assert (await ask(origin)).content == b"next"
    assert server.connections == 1


async def test_a_body_that_ends_with_its_connection(server: Server, origin: Origin) -> None:
    server.answers, server.after = [b"HTTP/1.1 200 OK\r\n\r\nall of it"], "close"
    assert (await ask(origin)).content == b"all of it"


async def test_what_comes_before_the_answer(server: Server, origin: Origin) -> None:
    server.answers = [
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + plain(b"now")
    ]
    answer = await ask(origin)
    assert (answer.status, answer.content, "link" in answer.headers) == (200, b"now", False)


async def test_a_large_body_both_ways(server: Server, origin: Origin) -> None:
    server.answers = [plain(b"y" * 600_000)]
    answer = await ask(origin, b"x" * 3_000_000)
    assert bytes(answer.content) == b"y" * 600_000
    assert server.requests[0].endswith(b"x" * 3_000_000)


async def test_another_status_is_an_error(server: Server, origin: Origin) -> None:
    server.answers = [plain(b"no", status="503 Service Unavailable")]
    with pytest.raises(RetryableError, match="503: no"):
        await ask(origin)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (None, ConnectionError),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nshort", ConnectionError),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", ConnectionError),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 70_000 + b"\r\n\r\n", ConnectionError),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1000001\r\n\r\n", AnswerTooLargeError),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"z" * 1_000_001, AnswerTooLargeError),
    ],
    ids=["nothing", "cut-short", "no-http", "endless-head", "too-large-announced", "too-large"],
)
async def test_what_is_no_answer(
    server: Server, origin: Origin, answer: bytes | None, error: type[Exception]
) -> None:
    server.answers, server.after = [answer, plain(b"fine")], "close"
    with pytest.raises(error):
        await ask(origin)
    server.after = "keep"
    assert (await ask(origin)).content == b"fine"


async def test_sent_is_noted_and_a_refused_connection_is_not_sent(server: Server, origin: Origin) -> None:
    server.answers = [None]
    exchange: Exchange
    with pytest.raises(ProviderError):
        async with guarded("k") as exchange:
            await ask(origin)
    assert exchange.sent
    nobody = Origin("http://127.0.0.1:1", refused)
    with pytest.raises(RetryableError):
        async with guarded("k") as exchange:
            await ask(nobody)
    assert not exchange.sent


async def test_a_header_cannot_break_out_of_its_line(origin: Origin) -> None:
    with pytest.raises(ValueError, match="control character"):
        await origin.request("POST", "/", headers={"x-key": "a\r\nx-evil: b"})


async def test_a_cancelled_call_closes_its_connection(server: Server, origin: Origin) -> None:
    server.answers = [b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhel", plain(b"fresh")]
    call = asyncio.create_task(ask(origin))
    await asyncio.sleep(0.1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert (await ask(origin)).content == b"fresh"
    assert server.connections == 2


async def test_more_than_was_asked_for_reaches_nobody(server: Server, origin: Origin) -> None:
    server.answers = [plain(b"first") + b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nEV", plain(b"second")]
    first = await ask(origin)
    assert (bytes(first.content), first.headers["content-length"]) == (b"first", "5")
    await asyncio.sleep(0.05)
    assert (await ask(origin)).content == b"second"
    assert server.connections == 2


async def test_a_large_request_that_is_refused_before_it_is_read() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(plain(b"too much", status="413 Content Too Large"))
            await answered.wait()  # the body is not read
        finally:
            writer.transport.abort()

    answered = asyncio.Event()
    listening = await asyncio.start_server(refuse, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    made = Origin(f"http://localhost:{port}", refused)
    async with listening:
        with pytest.raises(RetryableError, match="413: too much"):
            async with asyncio.timeout(PATIENCE):
                await ask(made, b"x" * 20_000_000)
        await made.aclose()
        answered.set()
        await asyncio.sleep(0.05)


async def test_a_large_request_that_breaks_off_was_not_sent() -> None:
    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.abort()

    listening = await asyncio.start_server(cut, "127.0.0.1", 0)
    made = Origin(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}", refused)
    exchange: Exchange
    async with listening:
        with pytest.raises(RetryableError):
            async with guarded("k") as exchange:
                await ask(made, b"x" * 20_000_000)
    assert not exchange.sent
    await made.aclose()


class TestAsItComes:
    async def test_a_body_is_given_in_pieces(self, server: Server, origin: Origin) -> None:
        server.answers = [chunked(b"one two three"), plain(b"whole")]
        pieces: list[bytes] = []
        answer = await origin.request("POST", "/v1/x", headers={}, on_body=pieces.append)
        assert (b"".join(pieces), answer.content) == (b"one two three", b"")
        assert len(pieces) > 1
        # The connection is as good as after any answer.
        assert (await ask(origin)).content == b"whole"
        assert server.connections == 1

    async def test_a_refusal_is_read_as_always(self, server: Server, origin: Origin) -> None:
        server.answers = [plain(b"no", status="503 X")]
        pieces: list[bytes] = []
        with pytest.raises(RetryableError, match="503: no"):
            await origin.request("POST", "/v1/x", headers={}, on_body=pieces.append)
        assert pieces == []

    async def test_who_raises_ends_the_exchange(self, server: Server, origin: Origin) -> None:
        server.answers = [chunked(b"one two three"), plain(b"whole")]

        def refuse(data: bytes) -> None:
            raise RetryableError("enough")

        with pytest.raises(RetryableError, match="enough"):
            await origin.request("POST", "/v1/x", headers={}, on_body=refuse)
        assert (await ask(origin)).content == b"whole"
        assert server.connections == 2

    async def test_the_cap_holds(self, server: Server) -> None:
        small = Origin(f"http://127.0.0.1:{server.port}", refused, max_answer_bytes=1000)  # type: ignore[attr-defined]
        server.answers = [chunked(b"x" * 1001)]
        with pytest.raises(AnswerTooLargeError):
            await small.request("POST", "/v1/x", headers={}, on_body=lambda _: None)
        await small.aclose()
