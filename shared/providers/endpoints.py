"""Where a driver calls and with which key: the provider if it has a key, else the simulator."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pydantic import SecretStr

from shared.config import GATEWAY_BASE_URL, SIMULATOR_KEY, Settings
from shared.providers.base import SIMULATOR, Call, Generation, PermanentError


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A base URL without a trailing slash, and the key to send there."""

    base_url: str
    key: str = field(repr=False)

    def provider(self, name: str) -> str:
        """Who answers here: the named provider, or the simulator, also where a call ends without any answer."""
        return SIMULATOR if self.key == SIMULATOR_KEY else name


class UnconfiguredError(Exception):
    """A driver cannot be made as things are configured; the message says what to set."""


def gemini(settings: Settings) -> Endpoint:
    """Gemini's own key and address.

    Raises:
        UnconfiguredError: neither a key nor a simulator is configured.
    """
    return _choose(settings, "GEMINI_API_KEY", settings.gemini_api_key, settings.gemini_base_url)


def nano_banana_google(settings: Settings) -> Endpoint:
    """Google's form of Nano Banana: without a key or address of its own, those of Gemini hold.

    Raises:
        UnconfiguredError: neither a key nor a simulator is configured.
    """
    base_url = settings.nano_banana_base_url or settings.gemini_base_url
    if settings.nano_banana_api_key or not settings.gemini_api_key:
        return _choose(
            settings, "NANO_BANANA_API_KEY (or GEMINI_API_KEY)", settings.nano_banana_api_key, base_url
        )
    return _choose(settings, "GEMINI_API_KEY", settings.gemini_api_key, base_url)


def nano_banana_gateway(settings: Settings) -> Endpoint:
    """The gateway's key and address; Gemini's key is never sent to a gateway.

    Raises:
        UnconfiguredError: neither a key nor a simulator is configured.
    """
    base_url = settings.nano_banana_base_url or GATEWAY_BASE_URL
    return _choose(settings, "NANO_BANANA_API_KEY", settings.nano_banana_api_key, base_url)


def _choose(settings: Settings, name: str, secret: SecretStr | None, base_url: str) -> Endpoint:
    key = secret.get_secret_value().strip() if secret else ""
    if key:
        if not (key.isascii() and key.isprintable() and " " not in key):
            raise UnconfiguredError(f"{name} holds characters that no key has: set it anew")
        return Endpoint(base_url.rstrip("/"), key)
    if settings.simulator_url:
        return Endpoint(settings.simulator_url.rstrip("/"), SIMULATOR_KEY)
    raise UnconfiguredError(f"{name} is not set: set it, or SIMULATOR_URL to try things without a provider")


class UnconfiguredDriver:
    """Stands in for a driver that cannot be: every call fails with the reason."""

    streams = False

    def __init__(self, provider: str, words: str) -> None:
        self.provider = provider
        self._words = words

    async def generate(self, request: Any, call: Call) -> Generation:  # noqa: ARG002
        raise PermanentError(self._words, reason="unauthenticated")

    async def aclose(self) -> None:
        """Has nothing to close."""
