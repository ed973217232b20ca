from __future__ import annotations

import asyncio

import pytest

from shared.coalesce import SingleFlight


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
