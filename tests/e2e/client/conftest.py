"""One running scripts/up for the tests of the client's command and of the documented examples."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.stack import Up, running_up, variables


@pytest.fixture(scope="package")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with running_up(tmp_path_factory.mktemp("client") / "data", "--no-flower") as running:
        yield running
        running.stop()


@pytest.fixture(scope="package")
def surroundings(up: Up) -> dict[str, str]:
    """The environment of a user who did what scripts/up printed."""
    return {**variables(), "PLANTAIN_URL": up.facts["api_url"], "PLANTAIN_API_KEY": up.facts["api_key"]}
