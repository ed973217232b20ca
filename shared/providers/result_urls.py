"""Fetches the pictures that a gateway names by URL, without being sent where it has no business.

A URL in an answer is somebody else's word. So: https only, a host from the allow-list, no private or local
address behind it, the connection made to the very address that was checked, no redirect followed, and the
gateway's key stays here. The gateway's own origin is trusted, as its address is the operator's word; over
http only on loopback, where development and the simulator are.
"""

from __future__ import annotations

import asyncio
import ipaddress
from http import HTTPStatus
from urllib.parse import urlsplit

import httpx

from shared.addresses import DEFAULT_PORTS, Policy, RefusedUrlError, UnreachableError, parse, resolve
from shared.outbound import ssl_context
from shared.providers.transport import (
    CONNECT_TIMEOUT,
    KEEPALIVE,
    MAX_ANSWER_BYTES,
    AnswerTooLargeError,
    proxy_for,
)

_TRIES = 3
_PAUSE = 0.5
#: No network of the operator's own counts as public here: its hosts are named one by one.
_PUBLIC = Policy()


class LostResultError(Exception):
    """The URL may be fetched, but does not give the picture."""


class ResultFetcher:
    """Fetches result URLs of one gateway.

    Args:
        gateway_url: the gateway's base URL.
        hosts: further hosts that result URLs may name, exactly as they stand in them.
    """

    def __init__(self, gateway_url: str, hosts: frozenset[str]) -> None:
        gateway = urlsplit(gateway_url)
        self._own = (gateway.scheme, gateway.hostname, gateway.port or DEFAULT_PORTS.get(gateway.scheme))
        self._hosts = hosts | {gateway.hostname or ""}
        # The address that was checked is the one connected to, under the host's own name: httpx can do that.
        self._http = httpx.AsyncClient(
            verify=ssl_context(),
            proxy=proxy_for(gateway_url),
            trust_env=False,
            follow_redirects=False,
            headers={"accept-encoding": "identity"},
            timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT),
            limits=httpx.Limits(keepalive_expiry=KEEPALIVE),
        )

    async def fetch(self, url: str) -> bytes:
        """The bytes behind a URL, tried a few times: fetching costs nothing, another picture does.

        Raises:
            RefusedUrlError: not allowed, and the message says why; trying again changes nothing.
            LostResultError: allowed, but the bytes could not be had.
        """
        target, headers, extensions = await self._checked(url)
        for left in reversed(range(_TRIES)):
            try:
                status, data = await self._get(target, headers, extensions)
            except (httpx.TransportError, OSError, AnswerTooLargeError) as error:
                reason, again = str(error) or type(error).__name__, not isinstance(error, AnswerTooLargeError)
            else:
                if status == HTTPStatus.OK:
                    return data
                reason, again = str(status), status >= HTTPStatus.INTERNAL_SERVER_ERROR
            if not left or not again:
                raise LostResultError(f"the picture could not be fetched: {reason}")
            await asyncio.sleep(_PAUSE)
        raise AssertionError

    async def aclose(self) -> None:
        await self._http.aclose()

    async def _get(
        self, target: str, headers: dict[str, str], extensions: dict[str, str]
    ) -> tuple[int, bytes]:
        data = bytearray()
        async with self._http.stream("GET", target, headers=headers, extensions=extensions) as answer:
            if answer.status_code == HTTPStatus.OK:
                async for chunk in answer.aiter_raw():
                    data += chunk
                    if len(data) > MAX_ANSWER_BYTES:
                        raise AnswerTooLargeError(f"the picture is larger than {MAX_ANSWER_BYTES} bytes")
            return answer.status_code, bytes(data)

    async def _checked(self, url: str) -> tuple[str, dict[str, str], dict[str, str]]:
        """The URL to connect to, and the headers and extensions that keep its name."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port or DEFAULT_PORTS.get(parts.scheme)
        except ValueError:
            raise RefusedUrlError("the URL is malformed") from None
        if parts.username is not None or parts.password is not None:
            raise RefusedUrlError("the URL carries credentials")
        own = (parts.scheme, host, port) == self._own
        if parts.scheme != "https" and not (own and parts.scheme == "http" and _is_loopback(host)):
            raise RefusedUrlError("the URL is not https")
        if host not in self._hosts:
            raise RefusedUrlError(
                f"the picture lies on {host[:100]!r}, which NANO_BANANA_GATEWAY_RESULT_HOSTS does not name"
            )
        if own:
            return url, {}, {}
        target = parse(url, _PUBLIC)
        try:
            addresses = await resolve(target, _PUBLIC)
        except UnreachableError as error:
            raise LostResultError(str(error)) from None
        # Hosts may share an address, and no connection: its certificate was for one of them.
        headers = {"host": target.authority, "connection": "close"}
        return target.at(addresses[0]), headers, {"sni_hostname": target.host}


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
