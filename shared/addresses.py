"""Which addresses may be called on a client's word: its URL is read, its host resolved, every address checked.

A server that fetches what it is told to can be sent to its own network (server-side request forgery). So a URL is
https, names nothing but a host, a port and a path, and every address that its host has lies on the public internet.
What is public is decided here by IANA's special-purpose registries and not by :mod:`ipaddress`, whose ``is_global``
lets through 6to4 before Python 3.11.10, and NAT64 and multicast in every version (CVE-2024-4032, PYSEC-2026-2995).

Needs no HTTP client, so that the API can refuse a URL when it is given. :mod:`shared.outbound` makes the call.

https://www.iana.org/assignments/iana-ipv4-special-registry
https://www.iana.org/assignments/iana-ipv6-special-registry
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
)
from urllib.parse import urlsplit

from shared.config import Settings

DEFAULT_PORTS = {"https": 443, "http": 80}
#: Longer URLs are refused; common servers take no longer ones.
MAX_URL_CHARS = 2048
_MAX_HOST_CHARS = 253
#: Printable ASCII without what parsers disagree about: space, backslash, quotes and the like.
_PLAIN = re.compile(r"[!#-;=?-\[\]_a-z~]+")
_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*")
#: A last label that is a number makes the whole an IPv4 address in some spelling (WHATWG URL, "ends in a number").
_NUMBER = re.compile(r"(?:.*\.)?(?:\d+|0x[0-9a-f]*)")

_NOT_PUBLIC_V4 = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8",  # this network
            "10.0.0.0/8",  # private
            "100.64.0.0/10",  # shared: carriers and clouds
            "127.0.0.0/8",  # loopback
            "169.254.0.0/16",  # link-local; the clouds' metadata
            "172.16.0.0/12",  # private
            "192.0.0.0/24",  # protocol assignments
            "192.0.2.0/24",  # documentation
            "192.88.99.0/24",  # 6to4 relays, deprecated
            "192.168.0.0/16",  # private
            "198.18.0.0/15",  # benchmarks
            "198.51.100.0/24",  # documentation
            "203.0.113.0/24",  # documentation
            "224.0.0.0/4",  # multicast
            "240.0.0.0/4",  # reserved, and broadcast
        ),
    )
)
#: All that IANA has given out as global unicast; loopback, link-local, unique local, multicast and the rest lie outside.
_PUBLIC_V6 = IPv6Network("2000::/3")
_NOT_PUBLIC_V6 = tuple(
    map(
        IPv6Network,
        (
            "2001::/23",  # protocol assignments: Teredo (2001::/32) carries an IPv4 address, ORCHID names no host
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4 carries an IPv4 address
            "3fff::/20",  # documentation
        ),
    )
)
#: Addresses that are IPv4's, whose last 32 bits are the one meant: IPv4-mapped, and NAT64's well-known prefix.
_EMBEDDING = (IPv6Network("::ffff:0:0/96"), IPv6Network("64:ff9b::/96"))

# Names are resolved in threads of their own. Nobody can break off a lookup: one whose server is slow on purpose keeps its
# thread for half a minute, so there are more of them than calls under way (128 webhooks, half of them to who answers).
_resolvers = ThreadPoolExecutor(max_workers=256, thread_name_prefix="resolve")


class OutboundError(Exception):
    """A call to a client's URL that gave no answer; the message says why, and is fit for the client.

    OutboundError
    ├── RefusedUrlError     not allowed: nothing was sent, and trying again changes nothing
    └── UnreachableError    no answer this time (shared/outbound.py: a time limit as well)
    """


class RefusedUrlError(OutboundError):
    """The URL may not be called."""


class UnreachableError(OutboundError):
    """The name does not resolve, nobody answers, the certificate is wrong, the connection broke, or time ran out."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What may be called besides the public internet over https.

    Attributes:
        networks: whose addresses count as public.
        http: plain http is allowed, to those networks only.
    """

    networks: tuple[IPv4Network | IPv6Network, ...] = ()
    http: bool = False

    @classmethod
    def of(cls, settings: Settings) -> Policy:
        return cls(settings.outbound_networks, http=not settings.in_production)


@dataclass(frozen=True, slots=True)
class Target:
    """A URL that may be called if its addresses may.

    Attributes:
        host: in lower case, without brackets: a name, or an address.
        path: path and query, as they go on the wire.
    """

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """The Host header: the port only where it is not the scheme's own."""
        host = bracketed(self.host)
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    def at(self, address: str) -> str:
        """The URL with an address in the host's place."""
        return f"{self.scheme}://{bracketed(address)}:{self.port}{self.path}"


def parse(url: str, policy: Policy) -> Target:
    """Reads a URL, and refuses what is wrong whatever its host resolves to. Does no I/O.

    Raises:
        RefusedUrlError: not https (or http where the policy has it), malformed, with credentials, on a port of
            another protocol, or with an address in it that is not public.
    """
    if len(url) > MAX_URL_CHARS:
        raise RefusedUrlError(f"the URL is longer than {MAX_URL_CHARS} characters")
    if not _PLAIN.fullmatch(url.lower()):
        raise RefusedUrlError(
            "the URL holds characters that must be percent-encoded (in a host: written as xn--…)"
        )
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").removesuffix("."), parts.port
    except ValueError:
        raise RefusedUrlError("the URL is malformed; it should look like https://host/path") from None
    if parts.scheme != "https" and not (policy.http and parts.scheme == "http"):
        raise RefusedUrlError("the URL must begin with https://")
    if "@" in parts.netloc:
        raise RefusedUrlError("the URL must not carry a user name or password")
    port = DEFAULT_PORTS[parts.scheme] if port is None else port
    if port not in DEFAULT_PORTS.values() and port < 1024:
        raise RefusedUrlError(f"port {port} belongs to another protocol; use 443, or one from 1024 up")
    _check_host(host, policy)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme, host, port, path)


async def resolve(target: Target, policy: Policy) -> Sequence[str]:
    """All addresses of a target, each of which may be called; asked for once. The caller bounds the time.

    Raises:
        RefusedUrlError: one of them may not; which is not told, as it would describe a network.
        UnreachableError: there is none.
    """
    loop = asyncio.get_running_loop()
    try:
        found = await loop.run_in_executor(_resolvers, _lookup, target.host, target.port)
    except (OSError, UnicodeError):
        raise UnreachableError(f"the host {target.host} does not resolve") from None
    addresses = list(dict.fromkeys(found))
    if not addresses:
        raise UnreachableError(f"the host {target.host} does not resolve")
    for address in addresses:
        _check_address(address, target, policy)
    return addresses


def is_public(address: str) -> bool:
    """True for an address of the public internet: not private, local, shared, reserved, multicast or a tunnel's."""
    parsed = _unwrapped(address)
    if isinstance(parsed, IPv4Address):
        return not any(parsed in network for network in _NOT_PUBLIC_V4)
    return parsed in _PUBLIC_V6 and not any(parsed in network for network in _NOT_PUBLIC_V6)


def bracketed(host: str) -> str:
    """A host as it stands in a URL."""
    return f"[{host}]" if ":" in host else host


def _lookup(host: str, port: int) -> list[str]:
    return [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def _check_host(host: str, policy: Policy) -> None:
    """Refuses a host that is no name, and one that is an address which may not be called."""
    if not host:
        raise RefusedUrlError("the URL names no host")
    try:
        ip_address(host)
    except ValueError:
        if len(host) > _MAX_HOST_CHARS or not _NAME.fullmatch(host):
            raise RefusedUrlError("the URL's host is not a name or an address") from None
        if _NUMBER.fullmatch(host):
            raise RefusedUrlError("the URL's host is an IPv4 address in an unusual spelling") from None
    else:
        if not (is_public(host) or _listed(host, policy)):
            raise RefusedUrlError("the URL's address is not on the public internet")


def _check_address(address: str, target: Target, policy: Policy) -> None:
    listed = _listed(address, policy)
    if not listed and not is_public(address):
        raise RefusedUrlError(f"the host {target.host} has an address that is not on the public internet")
    if not listed and target.scheme != "https":
        raise RefusedUrlError("the URL must begin with https://")


def _listed(address: str, policy: Policy) -> bool:
    parsed = _unwrapped(address)
    return any(parsed.version == network.version and parsed in network for network in policy.networks)


def _unwrapped(address: str) -> IPv4Address | IPv6Address:
    """An address without its zone, and IPv4's own where it is one in IPv6's clothes."""
    parsed = ip_address(address.partition("%")[0])
    if isinstance(parsed, IPv6Address) and any(parsed in network for network in _EMBEDDING):
        return IPv4Address(int(parsed) & 0xFFFFFFFF)
    return parsed
