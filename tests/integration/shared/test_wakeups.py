"""Wake-ups that are in no hurry leave the cores to the job's way, and go along with those that are."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import pytest

from shared.config import Settings
from shared.wakeups import Change, Wakeups
from tests.patience import PATIENCE

Heard = asyncio.Queue[tuple[float, list[Change]]]


@pytest.fixture
async def heard(settings: Settings) -> AsyncIterator[Heard]:
    """Messages as an API process hears them, each with the time that it came."""
    listener, messages = Wakeups(settings), Heard()
    task = asyncio.create_task(
        listener.listen_for_changes(lambda changes: messages.put_nowait((time.monotonic(), list(changes))))
    )
    probe, last = Wakeups(settings), _change()
    async with asyncio.timeout(PATIENCE):
        while messages.empty():  # what is told before it listens is lost
            probe.changed([_change()])
            await asyncio.sleep(0.01)
        probe.changed([last])
        await probe.close()
        while last not in (await messages.get())[1]:
            pass
    yield messages
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await listener.close()


def _change() -> Change:
    return UUID(int=1), uuid4()


async def _next(heard: Heard) -> tuple[float, list[Change]]:
    async with asyncio.timeout(PATIENCE):
        return await heard.get()


async def test_what_is_in_no_hurry_is_told_together_some_milliseconds_later(
    heard: Heard, wakeups: Wakeups
) -> None:
    first, second, began = _change(), _change(), time.monotonic()
    wakeups.changed_soon([first])
    wakeups.changed_soon([second])
    came, changes = await _next(heard)
    assert changes == [first, second]
    assert came - began > 0.004


async def test_it_goes_along_with_what_is_told_at_once(
    heard: Heard, wakeups: Wakeups, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.wakeups._SOON_SECONDS", 2 * PATIENCE)
    waits, urgent = _change(), _change()
    wakeups.changed_soon([waits])
    wakeups.changed([urgent, waits])
    assert (await _next(heard))[1] == [waits, urgent]


async def test_what_waits_is_told_before_the_end(
    heard: Heard, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.wakeups._SOON_SECONDS", 2 * PATIENCE)
    wakeups, waits = Wakeups(settings), _change()
    wakeups.changed_soon([waits])
    await wakeups.close()
    assert (await _next(heard))[1] == [waits]


@pytest.mark.parametrize(("at_once", "at_least"), [(10, 0.01), (100, 0.025)])
async def test_the_more_there_are_the_longer_the_next_ones_are_collected(
    heard: Heard, wakeups: Wakeups, at_once: int, at_least: float
) -> None:
    began = time.monotonic()  # whatever delays a message makes this longer, and nothing makes it shorter
    wakeups.changed([_change() for _ in range(at_once)])
    assert len((await _next(heard))[1]) == at_once
    later = [_change(), _change()]
    for change in later:
        wakeups.changed([change])
    came, changes = await _next(heard)
    assert changes == later
    assert came - began > at_least


async def test_a_few_make_nobody_wait(
    heard: Heard, wakeups: Wakeups, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.wakeups._BUNDLE_SECONDS", 2 * PATIENCE)
    for _ in range(3):
        change = _change()
        wakeups.changed([change])
        assert (await _next(heard))[1] == [change]
