"""Fetches the pictures that a gateway names by URL, without being sent where it has no business.

A URL in an answer is somebody else's word. So: https only, a host from the allow-list, no private or local
address behind it, the connection made to the very address that was checked, no redirect followed, and the
gateway's key stays here. The gateway's own origin is trusted, as its address is the operator's word; over
http only on loopback, where development and the simulator are.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Mapping
from urllib.parse import urlsplit

import httpx

from shared.providers.base import ProviderError, RetryableError
from shared.providers.transport import open_client

_TRIES = 3
_PAUSE = 0.5
#: IPv6 addresses whose last 32 bits are an IPv4 address: IPv4-mapped and NAT64.
_EMBEDDING = (ipaddress.ip_network("::ffff:0:0/96"), ipaddress.ip_network("64:ff9b::/96"))
_DEFAULT_PORTS = {"https": 443, "http": 80}


class RefusedUrlError(Exception):
    """The URL may not be fetched; the message says why, and names the setting where one helps."""


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
        self._own = (gateway.scheme, gateway.hostname, gateway.port or _DEFAULT_PORTS.get(gateway.scheme))
        self._hosts = hosts | {gateway.hostname or ""}
        self._http = open_client(gateway_url, _refused)

    async def fetch(self, url: str) -> bytes:
        """The bytes behind a URL, tried a few times: fetching costs nothing, another picture does.

        Raises:
            RefusedUrlError: not allowed; trying again changes nothing.
            LostResultError: allowed, but the bytes could not be had.
        """
        target, headers, extensions = await self._checked(url)
        for left in reversed(range(_TRIES)):
            try:
                answer = await self._http.get(target, headers=headers, extensions=extensions)
            except (httpx.TransportError, OSError, ProviderError) as error:
                status = error.status if isinstance(error, ProviderError) else None
                if not left or (status is not None and status < 500):
                    raise LostResultError(f"the picture could not be fetched: {status or error}") from None
                await asyncio.sleep(_PAUSE)
            else:
                return answer.content
        raise AssertionError

    async def aclose(self) -> None:
        await self._http.aclose()

    async def _checked(self, url: str) -> tuple[str, dict[str, str], dict[str, str]]:
        """The URL to connect to, and the headers and extensions that keep its name."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port or _DEFAULT_PORTS.get(parts.scheme)
        except ValueError:
            raise RefusedUrlError("the picture's address is malformed") from None
        if parts.username is not None or parts.password is not None:
            raise RefusedUrlError("the picture's address carries credentials")
        own = (parts.scheme, host, port) == self._own
        if parts.scheme != "https" and not (own and parts.scheme == "http" and _is_loopback(host)):
            raise RefusedUrlError("the picture's address is not https")
        if host not in self._hosts:
            raise RefusedUrlError(
                f"the picture lies on {host[:100]!r}, which NANO_BANANA_GATEWAY_RESULT_HOSTS does not name"
            )
        if own:
            return url, {}, {}
        address = await _public_address(host, port or 443)
        literal = f"[{address}]" if ":" in address else address
        target = parts._replace(netloc=f"{literal}:{port}", fragment="").geturl()
        named = host if port == _DEFAULT_PORTS["https"] else f"{host}:{port}"
        return target, {"host": named}, {"sni_hostname": host}


async def _public_address(host: str, port: int) -> str:
    """One address of a host, all of which are public."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise LostResultError(f"the picture's host {host[:100]!r} does not resolve") from None
    addresses = [str(entry[4][0]) for entry in found]
    if not addresses or not all(is_public(address) for address in addresses):
        raise RefusedUrlError(f"the picture's host {host[:100]!r} has a private address")
    return addresses[0]


def is_public(address: str) -> bool:
    """True for an address of the public internet: not private, local, shared, reserved or multicast."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if parsed.version == 6 and any(parsed in network for network in _EMBEDDING):
        parsed = ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)
    return parsed.is_global and not parsed.is_multicast


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _refused(status: int, body: bytes, headers: Mapping[str, str]) -> ProviderError:  # noqa: ARG001
    return RetryableError(f"status {status}", status=status)
