from __future__ import annotations

import asyncio

import pytest

from shared.coalesce import FreshFlight, SingleFlight
from tests.patience import PATIENCE


class Recorder:
    def __init__(self) -> None:
        self.asked: list[str] = []
        self.gate = asyncio.Event()

    async def run(self, key: str) -> str:
        self.asked.append(key)
        await self.gate.wait()
        if key == "bad":
            raise ValueError(key)
        return key.upper()


async def test_those_who_ask_the_same_share_one_answer() -> None:
    recorder = Recorder()
    ask: SingleFlight[str, str] = SingleFlight(recorder.run)
    callers = [asyncio.create_task(ask(key)) for key in ("a", "a", "b", "a")]
    await asyncio.sleep(0)
    recorder.gate.set()
    assert [await caller for caller in callers] == ["A", "A", "B", "A"]
    assert recorder.asked == ["a", "b"]
    assert await ask("a") == "A"
    assert recorder.asked == ["a", "b", "a"], "an answer is shared, not kept"


async def test_a_caller_that_leaves_takes_nobodys_answer_along() -> None:
    recorder = Recorder()
    ask: SingleFlight[str, str] = SingleFlight(recorder.run)
    left, stayed = asyncio.create_task(ask("a")), asyncio.create_task(ask("a"))
    await asyncio.sleep(0)
    left.cancel()
    await asyncio.sleep(0)
    recorder.gate.set()
    assert await stayed == "A"


async def test_a_failure_reaches_all_and_is_not_remembered() -> None:
    recorder = Recorder()
    recorder.gate.set()
    ask: SingleFlight[str, str] = SingleFlight(recorder.run)
    for _ in range(2):
        with pytest.raises(ValueError, match="bad"):
            await ask("bad")
    assert recorder.asked == ["bad", "bad"]


async def test_who_asks_while_it_is_answered_shares_the_next_answer_and_no_older_one() -> None:
    recorder = Recorder()
    ask: FreshFlight[str, str] = FreshFlight(recorder.run)
    first = asyncio.create_task(ask("a"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    later = [asyncio.create_task(ask(key)) for key in ("a", "b", "a")]
    for _ in range(3):
        await asyncio.sleep(0)
    assert recorder.asked == ["a", "b"]
    later[0].cancel()  # takes nobody's answer along
    recorder.gate.set()
    async with asyncio.timeout(PATIENCE):
        assert [await caller for caller in (first, *later[1:])] == ["A", "B", "A"]
    assert recorder.asked == ["a", "b", "a"]
    assert await ask("a") == "A"
    assert recorder.asked == ["a", "b", "a", "a"], "an answer is shared, not kept"


async def test_the_next_answer_comes_after_one_that_failed_too() -> None:
    recorder = Recorder()
    ask: FreshFlight[str, str] = FreshFlight(recorder.run)
    callers = []
    for _ in range(6):
        callers.append(asyncio.create_task(ask("bad")))
        await asyncio.sleep(0)
    recorder.gate.set()
    assert [str(error) for error in await asyncio.gather(*callers, return_exceptions=True)] == ["bad"] * 6
    assert 2 <= len(recorder.asked) <= 3
    assert (ask._under_way, ask._next) == ({}, {})


async def test_under_load_no_answer_is_older_than_its_question() -> None:
    now = 0

    async def run(key: str) -> int:
        seen = now
        await asyncio.sleep(0.002)
        return seen

    ask: FreshFlight[str, int] = FreshFlight(run)

    async def caller() -> None:
        nonlocal now
        for _ in range(30):
            now += 1
            asked = now
            assert await ask("a") >= asked

    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*(caller() for _ in range(8)))
