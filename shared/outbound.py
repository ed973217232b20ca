"""Calls a client's URL without being sent where nobody should go: one bounded HTTP exchange, and no surprise.

The address that was checked is the one connected to, so that a name which changes its address in between
(DNS rebinding) gains nothing; the Host header, the TLS server name and the certificate's check keep the name.
No redirect is followed, no proxy and no credentials come from the environment, nothing is decompressed, and time
and bytes have bounds. See :mod:`shared.addresses` for what may be called.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import httpx

from shared.addresses import (
    OutboundError,
    Policy,
    RefusedUrlError,
    Target,
    UnreachableError,
    parse,
    resolve,
)

__all__ = [
    "Answer",
    "Outbound",
    "OutboundError",
    "Policy",
    "RefusedUrlError",
    "UnreachableError",
    "ssl_context",
]

#: Seconds for TCP and TLS with the last address that is tried; the others get a quarter, as one may swallow everything.
CONNECT_TIMEOUT = 10.0
_ADDRESSES = 3
#: Seconds for giving up a connection whose body was not waited for.
_CLOSING = 1.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back.

    Attributes:
        headers: names in lower case.
        body: as it came on the wire; at most the bytes asked for.
        truncated: more would have come, and was not read.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    truncated: bool


class Outbound:
    """Makes calls, as many at once as the caller starts. Close it with :meth:`aclose`.

    Args:
        policy: what may be called besides the public internet.
        verify: TLS settings; the public authorities' by default.
    """

    def __init__(self, policy: Policy, *, verify: ssl.SSLContext | None = None) -> None:
        self._policy = policy
        # No connection is kept: hosts may share an address, and its certificate was checked for one of them.
        self._http = httpx.AsyncClient(
            verify=verify or ssl_context(),
            trust_env=False,
            follow_redirects=False,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
            timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT),
        )

    async def request(
        self,
        method: str,
        url: str,
        *,
        timeout: float,  # noqa: ASYNC109 - one bound from resolving to the last byte
        max_bytes: int,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
        body_seconds: float | None = None,
    ) -> Answer:
        """One call. Any status is an answer, a redirect's too.

        Args:
            timeout: seconds for all of it.
            max_bytes: of the answer's body that are read; the rest is not waited for.
            body_seconds: the status is what counts: the body is waited for so long, and may break off. None: it is needed.

        Raises:
            RefusedUrlError: not allowed; nothing was sent.
            UnreachableError: no answer. Whether the request had arrived is not known.
        """
        target = parse(url, self._policy)
        try:
            async with asyncio.timeout(timeout) as limit:
                addresses = await resolve(target, self._policy)
                response = await self._at_one_of(addresses, target, method, headers or {}, content)
                if body_seconds is not None:
                    limit.reschedule(asyncio.get_running_loop().time() + body_seconds + _CLOSING)
                return await _read(response, max_bytes, body_seconds)
        except TimeoutError:
            raise UnreachableError(f"{target.host} did not answer within {timeout:g} s") from None
        except (httpx.TransportError, OSError) as error:
            raise UnreachableError(_words(error, target)) from None

    async def aclose(self) -> None:
        await self._http.aclose()

    async def _at_one_of(
        self,
        addresses: Sequence[str],
        target: Target,
        method: str,
        headers: Mapping[str, str],
        content: bytes | None,
    ) -> httpx.Response:
        """Asks the first address with which a connection can be made; the body is still to be read."""
        tried = addresses[:_ADDRESSES]
        for left, address in zip(reversed(range(len(tried))), tried, strict=True):
            request = self._http.build_request(
                method,
                target.at(address),
                headers={
                    **headers,
                    "host": target.authority,
                    "accept-encoding": "identity",
                    "connection": "close",
                },
                content=content,
                timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT / 4 if left else CONNECT_TIMEOUT),
                extensions={"sni_hostname": target.host},
            )
            try:
                return await self._http.send(request, stream=True)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                if not left:
                    raise
        raise AssertionError


async def _read(response: httpx.Response, max_bytes: int, seconds: float | None) -> Answer:
    body, truncated = bytearray(), False
    try:
        async with asyncio.timeout(seconds):
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > max_bytes:
                    truncated = True
                    break
    except (TimeoutError, httpx.TransportError):
        if seconds is None:
            raise
        truncated = True
    finally:
        await response.aclose()
    return Answer(response.status_code, dict(response.headers.items()), bytes(body[:max_bytes]), truncated)


@cache
def ssl_context() -> ssl.SSLContext:
    """Trusts certifi's authorities, or those that SSL_CERT_FILE names; made once, it takes a while."""
    return httpx.create_ssl_context()


def _words(error: Exception, target: Target) -> str:
    """What went wrong, without the addresses and paths that an error's own words may name."""
    if isinstance(error, httpx.ConnectTimeout):
        return f"{target.host} could not be reached in {CONNECT_TIMEOUT:g} s"
    if isinstance(error, httpx.ConnectError):
        cause = _root(error)
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"the certificate of {target.host} is not valid: {cause.verify_message}"
        if isinstance(cause, ssl.SSLError):
            return f"{target.host} does not speak TLS as it should on port {target.port}"
        return f"{target.host} refuses connections on port {target.port}"
    if isinstance(error, httpx.ProtocolError):
        return f"{target.host} does not answer in HTTP"
    return f"the connection to {target.host} broke"


def _root(error: BaseException) -> BaseException:
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return error
