"""What every way of calling a provider shares: limits, TLS, and the one place where failures become provider errors.

What was on the wire decides what a failure means, so the client notes it in the call's :class:`Exchange`: nothing sent
means that trying again is safe, sent and lost means that nobody knows.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import ParamSpec, TypeVar
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


def current_exchange() -> Exchange:
    """The exchange of the call around; one that nobody reads where there is none."""
    return _current.get() or Exchange()


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


def proxy_for(base_url: str) -> str | None:
    """What HTTPS_PROXY, HTTP_PROXY and NO_PROXY say about an address."""
    url = httpx.URL(base_url)
    proxies = getproxies()
    if proxy_bypass(url.netloc.decode("ascii")):
        return None
    return proxies.get(url.scheme) or proxies.get("all")


def keep_alive(connection: socket.socket | None) -> None:
    """Turns on keep-alive probes: a call is silent for minutes, and a vanished peer should not cost them all."""
    if connection is None:
        return
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15)
