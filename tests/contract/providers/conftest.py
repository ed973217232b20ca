"""The cases as parameters: a test that takes ``case`` or ``ask`` runs for every driver."""

from __future__ import annotations

import importlib.util
from collections.abc import AsyncIterator

import pytest

from shared.providers import Drivers
from tests.contract.conftest import RunningSimulator
from tests.contract.providers.cases import CASES, FAILURES, Asker, Case, settings_for


def _legacy_is_missing() -> bool:
    try:
        return importlib.util.find_spec("google.generativeai") is None
    except ModuleNotFoundError:
        return True


_MISSING = pytest.mark.skipif(_legacy_is_missing(), reason="pip install -r requirements/legacy-gemini.txt")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Pairs every case with every failure that its wire form knows, where a test asks for both."""
    if "case" not in metafunc.fixturenames:
        return
    if "failure" not in metafunc.fixturenames:
        metafunc.parametrize("case", [pytest.param(case, id=case.name, marks=_marks(case)) for case in CASES])
        return
    pairs = [
        pytest.param(case, failure, id=f"{case.name}-{failure.fault}", marks=_marks(case))
        for case in CASES
        for failure in FAILURES
        if failure.only(case)
    ]
    metafunc.parametrize(("case", "failure"), pairs)


def _marks(case: Case) -> list[pytest.MarkDecorator]:
    return [_MISSING] if case.name == "gemini-legacy" else []


@pytest.fixture
async def ask(case: Case, simulator: RunningSimulator) -> AsyncIterator[Asker]:
    """The case's driver against the simulator."""
    drivers = Drivers(settings_for(simulator.url, **case.settings))
    yield Asker(case, drivers.get(case.spec))
    await drivers.aclose()
