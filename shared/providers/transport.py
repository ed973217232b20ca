"""The HTTP client under the drivers, and the one place where its failures become provider errors.

httpx 0.28 keeps its connections in a list that every request walks several times: with one client for
all, a request costs more the more are in flight. Here each connection has a pool of its own, and spare
ones lie on a stack, so a request costs the same at any number. CPU per picture request against a loopback
server, ms at 50, 200 and 500 in flight: one pool 2.0, 22, over 60; sixteen pools 0.7, 0.9, 2.9; this 0.6,
0.8, 0.8. google-genai adds 1.1 of its own.

What was on the wire decides what a failure means, so the transport notes it in the call's
:class:`Exchange`: nothing sent means that trying again is safe, sent and lost means that nobody knows.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Any, ParamSpec, TypeVar
from urllib.request import getproxies, proxy_bypass

import httpx

from shared.providers.base import PermanentError, ProviderError, RetryableError, UnknownOutcomeError

#: Seconds for DNS, TCP and TLS together; the rest of a call has only the total deadline.
CONNECT_TIMEOUT = 10.0
#: Seconds that a spare connection is kept: less than the 5 after which common servers drop theirs.
KEEPALIVE = 4.0
#: The largest answer that is read, in bytes: three 4K pictures in base64 fit.
MAX_ANSWER_BYTES = 64 * 1024 * 1024
#: Work on this many bytes or more leaves the event loop (about a millisecond of parsing).
OFFLOAD_BYTES = 256 * 1024
#: The simulator's mark on every answer.
SIMULATED_HEADER = "x-plantain-simulated"

#: Makes a provider error of a status, a body and headers.
ErrorFrom = Callable[[int, bytes, Mapping[str, str]], ProviderError]

_Args = ParamSpec("_Args")
_Result = TypeVar("_Result")

# One line a request, at INFO, says nothing that the job's own events do not.
logging.getLogger("httpx").setLevel(logging.WARNING)


@dataclass(slots=True)
class Exchange:
    """What is known of one call's traffic, while it runs and after it failed.

    Attributes:
        sent: the whole request has been handed to the network at least once.
        status: of the last answer whose headers arrived.
        simulated: an answer carried the simulator's mark.
    """

    sent: bool = False
    status: int | None = None
    simulated: bool = False


_current: ContextVar[Exchange | None] = ContextVar("exchange", default=None)


class AnswerTooLargeError(Exception):
    """More bytes came than the transport's cap."""


class SparePool(httpx.AsyncBaseTransport):
    """Connections to one origin, each in an httpx transport of its own; redirects are not its business.

    How many are open at once is bounded by the caller (the worker's concurrency), not here.
    """

    def __init__(self, base_url: str, *, max_answer_bytes: int = MAX_ANSWER_BYTES) -> None:
        self._proxy = _proxy_for(base_url)
        self._max_answer_bytes = max_answer_bytes
        self._spare: deque[tuple[float, httpx.AsyncHTTPTransport]] = deque()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        exchange = _current.get() or Exchange()
        request.stream = _NotedBody(request.stream, exchange)
        timeouts = request.extensions.get("timeout", {})
        request.extensions["timeout"] = {**timeouts, "connect": CONNECT_TIMEOUT}
        connection = self._spare.pop()[1] if self._spare else self._open()
        try:
            response = await connection.handle_async_request(request)
        except BaseException:
            await connection.aclose()
            raise
        exchange.status = response.status_code
        exchange.simulated = exchange.simulated or SIMULATED_HEADER in response.headers
        response.stream = _CappedBody(response.stream, self, connection, self._max_answer_bytes)
        return response

    async def release(self, connection: httpx.AsyncHTTPTransport) -> None:
        """Takes a connection back whose answer has been read, and closes those unused for long."""
        now = asyncio.get_running_loop().time()
        self._spare.append((now, connection))
        while self._spare[0][0] < now - KEEPALIVE:
            await self._spare.popleft()[1].aclose()

    async def aclose(self) -> None:
        while self._spare:
            await self._spare.pop()[1].aclose()

    def _open(self) -> httpx.AsyncHTTPTransport:
        return httpx.AsyncHTTPTransport(
            verify=ssl_context(),
            limits=httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=KEEPALIVE),
            proxy=self._proxy,
            socket_options=_socket_options(),
        )


class _NotedBody(httpx.AsyncByteStream):
    """A request body that notes when its last chunk has been written."""

    def __init__(self, body: object, exchange: Exchange) -> None:
        assert isinstance(body, httpx.AsyncByteStream)
        self._body = body
        self._exchange = exchange

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._body:
            yield chunk
        self._exchange.sent = True


class _CappedBody(httpx.AsyncByteStream):
    """An answer's body that gives its connection back; one not read to its end is dropped."""

    def __init__(
        self, body: object, pool: SparePool, connection: httpx.AsyncHTTPTransport, max_bytes: int
    ) -> None:
        assert isinstance(body, httpx.AsyncByteStream)
        self._body = body
        self._pool = pool
        self._connection = connection
        self._max_bytes = max_bytes
        self._whole = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for chunk in self._body:
            size += len(chunk)
            if size > self._max_bytes:
                raise AnswerTooLargeError(f"the answer is larger than {self._max_bytes} bytes")
            yield chunk
        self._whole = True

    async def aclose(self) -> None:
        await self._body.aclose()
        if self._whole:
            self._whole = False
            await self._pool.release(self._connection)
        else:
            await self._connection.aclose()


class _Client(httpx.AsyncClient):
    """Lets go of answers as soon as their reader does.

    httpx ties an answer and its stream into a circle, which only a full garbage collection frees. Those are rare
    in a process that allocates little: a hundred pictures of some megabytes each would be waiting for one.
    """

    async def send(self, request: httpx.Request, *, stream: bool = False, **options: Any) -> httpx.Response:
        response = await super().send(request, stream=stream, **options)
        if not stream:
            response.stream = httpx.ByteStream(b"")
        return response


def open_client(
    base_url: str,
    error_from: ErrorFrom,
    *,
    expect: Collection[int] = (200,),
    max_answer_bytes: int = MAX_ANSWER_BYTES,
) -> httpx.AsyncClient:
    """An httpx client for one origin: no redirects, no deadline of its own, one pool per connection.

    An answer whose status is not among ``expect`` is read and raised as what ``error_from`` makes of
    it, so that whoever uses the client, an SDK included, sees only answers that it can read.
    """

    async def refuse(response: httpx.Response) -> None:
        if response.status_code not in expect:
            body = await response.aread()
            raise error_from(response.status_code, body, response.headers)

    return _Client(
        transport=SparePool(base_url, max_answer_bytes=max_answer_bytes),
        event_hooks={"response": [refuse]},
        headers={"accept-encoding": "identity"},
        follow_redirects=False,
        timeout=None,  # the transport bounds connecting, the driver the whole
        trust_env=False,
    )


@asynccontextmanager
async def guarded(key: str) -> AsyncIterator[Exchange]:
    """Around one call: whatever goes wrong inside leaves as a ProviderError that holds no key.

    Raises:
        RetryableError: nothing had been sent, or the answer made no sense.
        UnknownOutcomeError: the request was sent and its answer did not arrive in full.
        PermanentError: the request could not even be built.
    """
    exchange = Exchange()
    token = _current.set(exchange)
    try:
        yield exchange
    except ProviderError as error:
        raise _finished(error, exchange, key) from None
    except Exception as error:  # noqa: BLE001 - SDKs raise what they like
        raise _finished(_translated(error, exchange), exchange, key) from None
    finally:
        _current.reset(token)


def _translated(error: Exception, exchange: Exchange) -> ProviderError:
    if isinstance(error, TimeoutError | httpx.TimeoutException):
        if exchange.sent:
            return UnknownOutcomeError("The provider's answer did not arrive in time", code="timeout")
        return RetryableError("The provider could not be reached in time")
    if isinstance(error, httpx.LocalProtocolError | httpx.InvalidURL | httpx.UnsupportedProtocol):
        # Its words may quote a header, and so the key.
        return PermanentError(
            f"The request could not be sent: {type(error).__name__}", reason="invalid_request"
        )
    if isinstance(error, httpx.DecodingError | AnswerTooLargeError | ValueError) and exchange.sent:
        return malformed(f"{type(error).__name__}: {error}"[:200])
    if isinstance(error, httpx.TransportError | OSError):
        words = str(error) or type(error).__name__
        if exchange.sent:
            return UnknownOutcomeError(f"The connection was lost before the answer: {words}")
        return RetryableError(f"The provider could not be reached: {words}")
    if exchange.sent:
        return malformed(f"{type(error).__name__} while reading it")
    return PermanentError(f"The request could not be built: {type(error).__name__}", reason="invalid_request")


def malformed(words: str, *, status: int | None = 200) -> RetryableError:
    """An answer that makes no sense; whether it was paid for cannot be known."""
    return RetryableError(
        f"The provider's answer makes no sense: {words}",
        code="malformed_response",
        status=status,
        billed=None,
    )


def _finished(error: ProviderError, exchange: Exchange, key: str) -> ProviderError:
    error.simulated = error.simulated or exchange.simulated
    if error.status is None:
        error.status = exchange.status
    if key and key in error.message:
        error.message = error.message.replace(key, "[key]")
        error.args = (error.message,)
    return error


async def offload(
    size: int, function: Callable[_Args, _Result], /, *args: _Args.args, **kwargs: _Args.kwargs
) -> _Result:
    """Runs a function here, or in a thread where it has many bytes to work on."""
    if size < OFFLOAD_BYTES:
        return function(*args, **kwargs)
    return await asyncio.to_thread(function, *args, **kwargs)


@cache
def ssl_context() -> ssl.SSLContext:
    """Trusts certifi's authorities, or those that SSL_CERT_FILE names; made once, it takes a while."""
    return httpx.create_ssl_context()


def _proxy_for(base_url: str) -> str | None:
    """What HTTPS_PROXY, HTTP_PROXY and NO_PROXY say about an address."""
    url = httpx.URL(base_url)
    proxies = getproxies()
    if proxy_bypass(url.netloc.decode("ascii")):
        return None
    return proxies.get(url.scheme) or proxies.get("all")


def _socket_options() -> list[tuple[int, int, int]]:
    """Keep-alive probes: a call is silent for minutes, and a vanished peer should not cost them all."""
    options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    if hasattr(socket, "TCP_KEEPIDLE"):
        options += [
            (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
            (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15),
        ]
    return options
