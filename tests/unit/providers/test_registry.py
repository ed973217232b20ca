from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from shared.config import Settings
from shared.providers import FAMILIES, GEMINI, NANO_BANANA, Drivers, endpoints
from shared.providers.catalog import catalog

KEY = "a-key"


def settings(**changes: Any) -> Settings:
    return Settings(
        _env_file=None, database_url="postgresql://a:b@127.0.0.1/t", redis_url="redis://127.0.0.1", **changes
    )


def test_importing_the_registry_loads_no_sdk_and_no_client() -> None:
    code = "import sys, shared.providers; print([n for n in ('httpx', 'google.genai', 'PIL') if n in sys.modules])"

    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_every_family_of_the_catalogue_and_every_choice_has_a_driver() -> None:
    assert {model.family for model in catalog().values()} == set(FAMILIES)
    for name, factories in (("gemini_sdk", GEMINI), ("nano_banana_api", NANO_BANANA)):
        choices = Settings.model_fields[name].annotation
        assert set(factories) == set(choices.__args__)  # type: ignore[union-attr]


async def test_models_of_a_family_share_one_driver() -> None:
    drivers = Drivers(settings(simulator_url="http://127.0.0.1:1"))

    assert drivers.get(catalog()["gemini-flash"]) is drivers.get(catalog()["gemini-flash-lite"])
    await drivers.aclose()


def test_key_wins_over_the_simulator() -> None:
    chosen = endpoints.gemini(settings(gemini_api_key=KEY, simulator_url="http://127.0.0.1:1"))

    assert (chosen.base_url, chosen.key) == ("https://generativelanguage.googleapis.com", KEY)


def test_simulator_stands_in_without_a_key() -> None:
    chosen = endpoints.nano_banana_gateway(settings(simulator_url="http://127.0.0.1:1/"))

    assert (chosen.base_url, chosen.key) == ("http://127.0.0.1:1", "simulator")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"nano_banana_api": "gateway"},
        {"gemini_sdk": "google-generativeai"},
        # As scripts/up --simulator sets them.
        {"gemini_api_key": "simulator", "gemini_base_url": "http://127.0.0.1:1"},
    ],
)
async def test_what_the_simulator_is_configured_for_is_never_said_to_come_from_a_provider(
    changes: dict[str, Any],
) -> None:
    if changes.get("gemini_sdk") == "google-generativeai":
        pytest.importorskip("google.generativeai")
    drivers = Drivers(settings(simulator_url="http://127.0.0.1:1", **changes))

    assert {drivers.get(model).provider for model in catalog().values()} == {"simulator"}
    await drivers.aclose()


async def test_with_a_key_the_provider_has_its_own_name() -> None:
    drivers = Drivers(settings(gemini_api_key=KEY, nano_banana_api="gateway", nano_banana_api_key=KEY))

    assert {drivers.get(model).provider for model in catalog().values()} == {"google", "gateway"}
    await drivers.aclose()


def test_google_form_falls_back_to_geminis_key_and_address() -> None:
    chosen = endpoints.nano_banana_google(settings(gemini_api_key=KEY, gemini_base_url="https://proxy.test"))

    assert (chosen.base_url, chosen.key) == ("https://proxy.test", KEY)


def test_gateway_never_gets_geminis_key() -> None:
    with pytest.raises(endpoints.UnconfiguredError, match="NANO_BANANA_API_KEY"):
        endpoints.nano_banana_gateway(settings(gemini_api_key=KEY))


@pytest.mark.parametrize("key", ["two words", "line\nbreak", "schlüssel"])
def test_key_that_no_header_can_carry_is_refused_without_quoting_it(key: str) -> None:
    with pytest.raises(endpoints.UnconfiguredError) as caught:
        endpoints.gemini(settings(gemini_api_key=key))

    assert key not in str(caught.value)


def test_key_is_not_shown() -> None:
    assert KEY not in repr(endpoints.gemini(settings(gemini_api_key=KEY)))
