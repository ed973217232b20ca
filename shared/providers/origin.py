"""The HTTP/1.1 client under the drivers: one origin, hundreds of calls in flight, microseconds a call.

httpx costs 0.4 to 0.5 ms of CPU a call however its connections are kept (0.08 for its client alone), aiohttp 0.06 to
0.09, this 0.02: httptools, which uvicorn brings along, reads the answers, and a free connection lies on a stack. It knows
only what the drivers need: whole requests, whole answers, no redirects, no cookies, no retries. Where HTTPS_PROXY or
HTTP_PROXY names a proxy, httpx takes over.

What was on the wire decides what a failure means, so it is noted in the call's :class:`Exchange`: nothing sent means that
trying again is safe, sent and lost means that nobody knows.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

import httptools
import httpx

from shared.outbound import ssl_context
from shared.providers.base import ProviderError
from shared.providers.transport import (
    CONNECT_TIMEOUT,
    KEEPALIVE,
    MAX_ANSWER_BYTES,
    SIMULATED_HEADER,
    AnswerTooLargeError,
    Exchange,
    current_exchange,
    keep_alive,
    proxy_for,
)

#: Takes a piece of a body.
OnBody = Callable[[bytes], None]
#: Makes a provider error of a status, a body and headers.
ErrorFrom = Callable[[int, bytes | bytearray, Mapping[str, str]], ProviderError]

_MAX_HEAD_BYTES = 64 * 1024
#: An announced body of this size or more is received into one piece of memory, without a second copy at its end.
_ONE_PIECE_BYTES = 256 * 1024
#: What the transport may hold back; above it, a request counts as sent only when all of it is gone.
_WRITE_BUFFER_BYTES = 64 * 1024
_LINE_BREAK = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer; names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    content: bytes | bytearray


class Origin:
    """Calls one scheme, host and port.

    How many connections are open at once is bounded by the caller (the worker's concurrency), not here.

    Args:
        base_url: where paths begin.
        error_from: makes the error of an answer whose status is not among ``expect``.
        max_answer_bytes: a larger answer is not read.
    """

    def __init__(
        self,
        base_url: str,
        error_from: ErrorFrom,
        *,
        expect: Collection[int] = (200,),
        max_answer_bytes: int = MAX_ANSWER_BYTES,
    ) -> None:
        parts = urlsplit(base_url)
        self._error_from = error_from
        self._expect = frozenset(expect)
        self._max_answer_bytes = max_answer_bytes
        self._host = parts.hostname or ""
        self._port = parts.port or _PORTS[parts.scheme]
        self._tls = parts.scheme == "https"
        self._prefix = parts.path.rstrip("/")
        self._named = parts.netloc.rpartition("@")[2]
        self._root = f"{parts.scheme}://{self._named}"
        proxy = proxy_for(base_url)
        # As without a proxy, how many calls there are is the caller's affair.
        limits = httpx.Limits(
            max_connections=None, max_keepalive_connections=None, keepalive_expiry=KEEPALIVE
        )
        self._proxied = (
            httpx.AsyncClient(proxy=proxy, verify=ssl_context(), trust_env=False, limits=limits)
            if proxy
            else None
        )
        #: Free connections with the time since when they are; the one used last is taken first.
        self._spare: deque[tuple[float, _Connection]] = deque()

    async def request(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str],
        content: bytes = b"",
        on_body: OnBody | None = None,
    ) -> Answer:
        """Sends one request and waits for the whole answer, without a deadline but for connecting.

        Args:
            on_body: is given the body of an answer with an expected status in pieces, as they come; the answer's
                content is then empty. What it raises ends the exchange.

        Raises:
            ProviderError: what ``error_from`` makes of another status than those expected, or ``on_body`` raised.
            OSError: the connection could not be made, or was lost.
            TimeoutError: the connection could not be made in time.
            AnswerTooLargeError: more came than the cap.
            ValueError: a header holds a line break.
        """
        exchange = current_exchange()
        path = self._prefix + path
        if self._proxied is not None:
            answer = await self._through_proxy(method, path, headers, content, exchange, on_body)
        else:
            head = self._head(method, path, headers, content)
            answer = await self._directly(head, content, exchange, on_body)
        if answer.status not in self._expect:
            raise self._error_from(answer.status, answer.content, answer.headers)
        return answer

    async def aclose(self) -> None:
        while self._spare:
            self._spare.pop()[1].close()
        if self._proxied is not None:
            await self._proxied.aclose()

    def _head(self, method: str, path: str, headers: Mapping[str, str], content: bytes) -> bytes:
        lines = [f"{method} {path} HTTP/1.1", f"host: {self._named}", "accept-encoding: identity"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if content or method == "POST":
            lines.append(f"content-length: {len(content)}")
        if any(_LINE_BREAK.search(line) for line in lines):
            raise ValueError("a header holds a control character")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    async def _directly(
        self, head: bytes, content: bytes, exchange: Exchange, on_body: OnBody | None
    ) -> Answer:
        connection = self._take() or await self._open()
        try:
            answer = await connection.exchange(head, content, exchange, on_body)
        except BaseException:
            connection.close()
            raise
        if connection.reusable:
            self._spare.append((asyncio.get_running_loop().time(), connection))
        else:
            connection.close()
        return answer

    def _take(self) -> _Connection | None:
        now = asyncio.get_running_loop().time()
        while self._spare and self._spare[0][0] < now - KEEPALIVE:
            self._spare.popleft()[1].close()
        while self._spare:
            _, connection = self._spare.pop()
            if connection.reusable:
                return connection
            connection.close()
        return None

    async def _open(self) -> _Connection:
        """Tries the host's addresses in turn; one that swallows everything does not take the time of the others."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(CONNECT_TIMEOUT):
            found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
            addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
            for left, address in zip(reversed(range(len(addresses))), addresses, strict=True):
                try:
                    async with asyncio.timeout(CONNECT_TIMEOUT / 4 if left else None):
                        _, connection = await loop.create_connection(
                            lambda: _Connection(self._max_answer_bytes, self._expect),
                            address,
                            self._port,
                            ssl=ssl_context() if self._tls else None,
                            server_hostname=self._host if self._tls else None,
                        )
                        return connection
                except OSError:  # TimeoutError is one
                    if not left:
                        raise
        raise OSError(f"{self._host} has no address")

    async def _through_proxy(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        content: bytes,
        exchange: Exchange,
        on_body: OnBody | None,
    ) -> Answer:
        assert self._proxied is not None
        timeout = httpx.Timeout(None, connect=CONNECT_TIMEOUT)
        request = self._proxied.build_request(
            method,
            self._root + path,
            headers={"accept-encoding": "identity", **headers},
            content=content,
            timeout=timeout,
        )
        # httpx does not tell how far it came; taken for sent, a failure is of unknown outcome, which pays for nothing twice.
        exchange.sent = True
        try:
            response = await self._proxied.send(request, stream=True)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError):
            exchange.sent = False
            raise
        _note(exchange, response.status_code, response.headers)
        try:
            body, size = bytearray(), 0
            take = on_body if on_body and response.status_code in self._expect else body.extend
            async for chunk in response.aiter_raw():
                size += len(chunk)
                if size > self._max_answer_bytes:
                    raise AnswerTooLargeError(f"the answer is larger than {self._max_answer_bytes} bytes")
                take(chunk)
        finally:
            await response.aclose()
        return Answer(response.status_code, {k.lower(): v for k, v in response.headers.items()}, body)


def _note(exchange: Exchange, status: int, headers: Mapping[str, str]) -> None:
    exchange.status = status
    exchange.simulated = exchange.simulated or SIMULATED_HEADER in headers


class _Connection(asyncio.Protocol):
    """One connection; one exchange at a time."""

    def __init__(self, max_answer_bytes: int, expect: Collection[int]) -> None:
        self._max_answer_bytes = max_answer_bytes
        self._expect = expect
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Answer] | None = None
        self._exchange: Exchange | None = None
        self._on_body: OnBody | None = None
        self._drained: asyncio.Future[None] | None = None
        self._paused = False
        self.reusable = False
        self._begin()

    async def exchange(
        self, head: bytes, content: bytes, exchange: Exchange, on_body: OnBody | None
    ) -> Answer:
        """Sends a request and waits for its answer."""
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError("the connection was closed")
        self.reusable = False
        loop = asyncio.get_running_loop()
        self._begin()
        self._exchange, self._on_body = exchange, on_body
        answer: asyncio.Future[Answer] = loop.create_future()
        self._answer = answer
        try:
            if len(content) < _WRITE_BUFFER_BYTES:
                # It may have gone out from here on.
                exchange.sent = True
                self._transport.write(head + content)
            else:
                self._transport.write(head)
                self._transport.write(content)
                exchange.sent = await self._all_written(loop, answer)
            return await answer
        finally:
            self._answer = self._exchange = self._on_body = self._drained = None

    def close(self) -> None:
        """Ends the connection at once."""
        self.reusable = False
        if self._transport is not None:
            self._transport.abort()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.reusable = True
        self._transport.set_write_buffer_limits(high=_WRITE_BUFFER_BYTES, low=0)
        keep_alive(transport.get_extra_info("socket"))

    def data_received(self, data: bytes) -> None:
        if self._answer is None:
            # Nobody asked: it cannot belong to the next answer.
            self.close()
            return
        if not self._head_is_whole:
            self._head_size += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            # What a callback raises is the context of the parser's own error.
            cause = error.__context__
            told = cause if isinstance(cause, AnswerTooLargeError | ProviderError) else None
            self._fail(told or ConnectionError(f"the answer is no HTTP: {error}"))
        if not self._head_is_whole and self._head_size > _MAX_HEAD_BYTES:
            self._fail(ConnectionError(f"the answer's head is larger than {_MAX_HEAD_BYTES} bytes"))

    def eof_received(self) -> bool:
        self.reusable = False
        if self._head_is_whole and self._until_end:
            self._finish(keep=False)
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self.reusable = False
        self._fail(error or ConnectionResetError("the connection was closed"))

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    # What httptools calls.

    def on_message_begin(self) -> None:
        if self._answer is None or self._answer.done():
            # More than was asked for: it must not be taken for the next request's answer.
            self.close()

    def on_header(self, name: bytes, value: bytes) -> None:
        key = name.decode("latin-1").lower()
        text = value.decode("latin-1").strip()
        self._headers[key] = f"{self._headers[key]}, {text}" if key in self._headers else text

    def on_headers_complete(self) -> None:
        self._head_is_whole = True
        status = self._parser.get_status_code()
        if self._exchange is not None and status >= 200:  # 100 Continue and its kind say nothing yet
            _note(self._exchange, status, self._headers)
        length = self._headers.get("content-length", "")
        if length.isascii() and length.isdigit():
            self._announced(int(length[:20]))
        else:
            self._until_end = "transfer-encoding" not in self._headers

    def on_body(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > self._max_answer_bytes:
            raise self._too_large()
        if self._on_body is not None and self._parser.get_status_code() in self._expect:
            if self._answer is not None and not self._answer.done():
                self._on_body(data)
        elif self._piece is not None:
            self._piece[self._size - len(data) : self._size] = data
        else:
            self._chunks.append(data)

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() < 200:  # 100 Continue and its kind come before the answer
            self._begin()
            return
        self._finish(keep=self._parser.should_keep_alive())

    def _begin(self) -> None:
        self._headers: dict[str, str] = {}
        self._chunks: list[bytes] = []
        self._piece: bytearray | None = None
        self._size = self._head_size = 0
        #: The head has been read; the body ends where the connection does.
        self._head_is_whole = self._until_end = False

    def _announced(self, length: int) -> None:
        if length > self._max_answer_bytes:
            raise self._too_large()
        if length >= _ONE_PIECE_BYTES and self._on_body is None:
            self._piece = bytearray(length)

    def _too_large(self) -> AnswerTooLargeError:
        return AnswerTooLargeError(f"the answer is larger than {self._max_answer_bytes} bytes")

    def _finish(self, *, keep: bool) -> None:
        body = self._piece if self._piece is not None else b"".join(self._chunks)
        answer = Answer(self._parser.get_status_code(), self._headers, body)
        self._headers, self._chunks, self._piece = {}, [], None
        if self._answer is not None and not self._answer.done():
            # An answer to half a request leaves the other half on its way.
            self.reusable = keep and not self._paused
            self._answer.set_result(answer)

    def _fail(self, error: Exception) -> None:
        self.reusable = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)  # the answer says what became of it

    async def _all_written(self, loop: asyncio.AbstractEventLoop, answer: asyncio.Future[Answer]) -> bool:
        """Waits until the request is out, or was answered before it was: refused, most likely. False: it broke off."""
        if self._paused:
            self._drained = loop.create_future()
            waiting: set[asyncio.Future[Any]] = {self._drained, answer}
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        return not answer.done() or answer.exception() is None
