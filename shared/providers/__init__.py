"""Providers: the catalogue of models and one driver for each way of reaching them.

To add a provider: a driver module beside this one, a factory here, a family in the catalogue, and a line
in the parameters of the contract suite (tests/contract/providers). Drivers are imported when first asked
for: importing this package loads no SDK and no HTTP client.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from shared.config import Settings
from shared.providers import endpoints
from shared.providers.base import Driver
from shared.providers.catalog import ModelSpec

Factory = Callable[[Settings], Driver]


def _google_genai(settings: Settings) -> Driver:
    from shared.providers.gemini import GeminiDriver

    return GeminiDriver(endpoints.gemini(settings), stream_idle=settings.stream_idle_timeout)


def _google_generativeai(settings: Settings) -> Driver:
    from shared.providers.gemini_legacy import GeminiLegacyDriver

    return GeminiLegacyDriver(endpoints.gemini(settings), threads=settings.worker_concurrency)


def _nano_banana_google(settings: Settings) -> Driver:
    from shared.providers.nano_banana_google import NanoBananaGoogleDriver

    return NanoBananaGoogleDriver(endpoints.nano_banana_google(settings))


def _nano_banana_gateway(settings: Settings) -> Driver:
    from shared.providers.nano_banana_gateway import NanoBananaGatewayDriver

    return NanoBananaGatewayDriver(endpoints.nano_banana_gateway(settings), settings)


#: GEMINI_SDK → how text models are reached.
GEMINI: Mapping[str, Factory] = {
    "google-genai": _google_genai,
    "google-generativeai": _google_generativeai,
}
#: NANO_BANANA_API → how image models are reached.
NANO_BANANA: Mapping[str, Factory] = {
    "google": _nano_banana_google,
    "gateway": _nano_banana_gateway,
}
#: The catalogue's ``family`` → its drivers and the setting that chooses among them.
FAMILIES: Mapping[str, Callable[[Settings], tuple[Mapping[str, Factory], str]]] = {
    "gemini": lambda settings: (GEMINI, settings.gemini_sdk),
    "nano-banana": lambda settings: (NANO_BANANA, settings.nano_banana_api),
}


class Drivers:
    """The drivers of one process and event loop, each made when first asked for.

    The first ``get`` of a family imports its SDK (up to a second): ask once at start.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._made: dict[str, Driver] = {}

    def get(self, model: ModelSpec) -> Driver:
        """The driver of a model's family; one that is not configured fails at ``generate``."""
        driver = self._made.get(model.family)
        if driver is None:
            driver = self._made[model.family] = self._make(model.family)
        return driver

    async def aclose(self) -> None:
        """Closes every driver that was made."""
        made = list(self._made.values())
        self._made.clear()
        for driver in made:
            await driver.aclose()

    def _make(self, family: str) -> Driver:
        factories, choice = FAMILIES[family](self._settings)
        try:
            return factories[choice](self._settings)
        except endpoints.UnconfiguredError as error:
            return endpoints.UnconfiguredDriver("gateway" if choice == "gateway" else "google", str(error))
