"""Points at which a test may hold a process: nothing without a folder, and no folder outside tests."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from pydantic import ValidationError

from shared import checkpoints
from shared.checkpoints import checkpoint
from tests.conftest import settings_of

URLS = {"database_url": "postgresql://u:secret-1@h/d", "redis_url": "redis://:secret-2@h/0"}


@pytest.fixture
def orders(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "taken").mkdir()
    checkpoints.arm(tmp_path)
    yield tmp_path
    checkpoints.arm(None)


@pytest.mark.parametrize("environment", ["production", "development"])
def test_refused_outside_tests(environment: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="TEST_CHECKPOINTS lets a test kill this process"):
        settings_of(
            environment=environment,
            test_checkpoints=tmp_path,
            gemini_api_key="key",
            simulator_url=None,
            **URLS,
        )


def test_allowed_in_tests(tmp_path: Path) -> None:
    assert settings_of(test_checkpoints=tmp_path, **URLS).test_checkpoints == tmp_path


async def test_without_an_order_nothing_happens(orders: Path) -> None:
    (orders / "claimed.hold.any.1").touch()
    await asyncio.wait_for(checkpoint("answered", uuid4()), 1)
    checkpoints.arm(None)
    await asyncio.wait_for(checkpoint("claimed", uuid4()), 1)
    assert (orders / "claimed.hold.any.1").exists()


async def test_holds_the_job_it_names_until_it_is_let_go(orders: Path) -> None:
    job = uuid4()
    (orders / f"claimed.hold.{job}.1").touch()
    await asyncio.wait_for(checkpoint("claimed", uuid4()), 1)
    held = asyncio.create_task(checkpoint("claimed", job))
    await asyncio.sleep(0.05)
    assert not held.done()
    [taken] = (orders / "taken").iterdir()
    taken.unlink()
    await asyncio.wait_for(held, 1)
    await asyncio.wait_for(checkpoint("claimed", job), 1)


async def test_an_order_that_stays_is_met_again(orders: Path) -> None:
    (orders / "claimed.dance.any.always").touch()
    for _ in range(2):
        with pytest.raises(ValueError, match="no such order: dance"):
            await checkpoint("claimed", uuid4())
    assert len(list((orders / "taken").iterdir())) == 2
