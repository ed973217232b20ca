"""Where the API is and with which key: from arguments or the environment, checked before anything is sent.

PLANTAIN_URL            the server's address, such as http://127.0.0.1:8000
PLANTAIN_API_KEY        the key
PLANTAIN_API_KEY_FILE   a file that holds it, where the variable above is not set
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from shared.client.errors import ConfigurationError
from shared.client.steps import Request

#: The same as pyproject.toml's.
__version__ = "0.1.0"
USER_AGENT = f"plantain-python/{__version__} python/{platform.python_version()} httpx/{httpx.__version__}"
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


@dataclass(frozen=True, slots=True)
class Connection:
    """An address and a key that can be used."""

    url: httpx.URL
    key: str = field(repr=False)

    def settings(self, timeout: float) -> dict[str, Any]:
        """Arguments of ``httpx.Client`` and ``httpx.AsyncClient``.

        Redirects are not followed, so the key goes nowhere else. A proxy of the environment does not get to see what
        stays on this machine.
        """
        return {
            "base_url": self.url,
            "headers": {"authorization": f"Bearer {self.key}", "user-agent": USER_AGENT},
            "timeout": httpx.Timeout(timeout, connect=min(timeout, 10.0)),
            "trust_env": self.url.host not in _LOOPBACK,
            "follow_redirects": False,
        }


def connection(url: str | None, key: str | None, environment: Mapping[str, str] | None = None) -> Connection:
    """Raises: ConfigurationError: one of them is missing, or cannot be one; the key is never shown."""
    found = os.environ if environment is None else environment
    return Connection(_url(url or found.get("PLANTAIN_URL", "")), _key(key or _key_of(found)))


def arguments(request: Request, timeout: httpx.Timeout) -> dict[str, Any]:
    """Arguments of ``build_request``; the path begins where the address ends."""
    if request.read_timeout is not None:
        timeout = httpx.Timeout(
            connect=timeout.connect, write=timeout.write, pool=timeout.pool, read=request.read_timeout
        )
    return {
        "method": request.method,
        "url": request.path,
        "params": list(request.query) or None,
        "headers": dict(request.headers),
        "content": request.content,
        "timeout": timeout,
    }


def _url(text: str) -> httpx.URL:
    if not text.strip():
        raise ConfigurationError(
            "no address: set PLANTAIN_URL, or give one, such as http://127.0.0.1:8000 (scripts/up prints it)"
        )
    try:
        url = httpx.URL(text.strip())
    except httpx.InvalidURL as error:
        raise ConfigurationError(f"the address cannot be read: {error}") from None
    if url.scheme not in {"http", "https"} or not url.host:
        raise ConfigurationError("the address must begin with http:// or https:// and name a host")
    if url.userinfo or url.query or url.fragment:
        raise ConfigurationError(
            "the address must be scheme, host, port and perhaps a path, and nothing else"
        )
    return url


def _key_of(environment: Mapping[str, str]) -> str:
    if environment.get("PLANTAIN_API_KEY"):
        return environment["PLANTAIN_API_KEY"]
    path = environment.get("PLANTAIN_API_KEY_FILE")
    return key_from(Path(path)) if path else ""


def key_from(path: Path) -> str:
    """The key in a file.

    Raises:
        ConfigurationError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"the key cannot be read from {path}: {error}") from None


def _key(text: str) -> str:
    key = text.strip()
    if not key:
        raise ConfigurationError(
            "no API key: set PLANTAIN_API_KEY, or PLANTAIN_API_KEY_FILE (scripts/up prints one; scripts/keys makes more)"
        )
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ConfigurationError(
            "the API key has characters that no key has; look for a line break or a quote"
        )
    return key
