"""The coalescer: a lone call waits for nothing, many share a batch, and each answers for itself."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

import pytest

from shared.coalesce import Coalescer
from shared.errors import Unavailable
from tests.patience import PATIENCE


class Recorder:
    """Doubles numbers, remembers the batches; waits for ``gate`` where it is closed."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def run(self, items: Sequence[int]) -> Sequence[int | BaseException]:
        self.batches.append(list(items))
        await self.gate.wait()
        if 13 in items and len(items) > 1:
            raise ValueError("13 spoils the batch")
        return [ValueError("unlucky") if item == 13 else item * 2 for item in items]


async def begun(recorder: Recorder) -> None:
    """A batch is under way."""
    async with asyncio.timeout(PATIENCE):
        while not recorder.batches:
            await asyncio.sleep(0)


async def test_what_comes_in_one_turn_of_the_loop_is_one_batch() -> None:
    recorder = Recorder()
    coalescer: Coalescer[int, int] = Coalescer(recorder.run)
    assert await asyncio.gather(*(coalescer(number) for number in (1, 2, 3))) == [2, 4, 6]
    assert recorder.batches == [[1, 2, 3]]


@pytest.mark.parametrize(("seconds", "more"), [(60, 1), (0, 0)], ids=["a moment ago", "long ago"])
async def test_only_after_a_crowd_does_a_batch_gather_for_a_turn(
    monkeypatch: pytest.MonkeyPatch, seconds: float, more: int
) -> None:
    """A lone call would wait for nobody; where several came, those that were just answered ask again."""
    recorder = Recorder()
    coalescer: Coalescer[int, int] = Coalescer(recorder.run)

    async def turns_of_a_call() -> int:
        recorder.batches.clear()
        task, turns = asyncio.create_task(coalescer(1)), 0
        while not recorder.batches:
            await asyncio.sleep(0)
            turns += 1
        await task
        return turns

    monkeypatch.setattr("shared.coalesce._CROWDED_SECONDS", seconds)
    alone = await turns_of_a_call()
    await asyncio.gather(coalescer(2), coalescer(3))
    assert [await turns_of_a_call() for _ in range(3)] == [alone + more] * 3


async def test_one_caller_calling_again_at_once_is_always_served() -> None:
    # The lane must be free in the very step in which the first answer is given.
    coalescer: Coalescer[int, int] = Coalescer(Recorder().run)
    async with asyncio.timeout(PATIENCE):
        for number in range(100, 200):
            assert await coalescer(number) == number * 2


async def test_calls_during_a_batch_share_the_next_one() -> None:
    recorder = Recorder()
    recorder.gate.clear()
    coalescer: Coalescer[int, int] = Coalescer(recorder.run)
    first = asyncio.create_task(coalescer(1))
    await begun(recorder)
    rest = [asyncio.create_task(coalescer(number)) for number in (2, 3, 4)]
    await asyncio.sleep(0.01)
    assert recorder.batches == [[1]]
    recorder.gate.set()
    assert await asyncio.gather(first, *rest) == [2, 4, 6, 8]
    assert recorder.batches == [[1], [2, 3, 4]]


async def test_a_bad_item_fails_alone() -> None:
    recorder = Recorder()
    coalescer: Coalescer[int, int] = Coalescer(recorder.run)
    results = await asyncio.gather(*(coalescer(number) for number in (12, 13, 14)), return_exceptions=True)
    assert results[0] == 24
    assert isinstance(results[1], ValueError)
    assert results[2] == 28


async def test_a_shared_fault_reaches_everybody_and_is_tried_once() -> None:
    calls = 0

    async def away(items: Sequence[int]) -> Sequence[int]:
        nonlocal calls
        calls += 1
        raise ConnectionError("away")

    coalescer: Coalescer[int, int] = Coalescer(away, is_shared_fault=lambda error: isinstance(error, OSError))
    results = await asyncio.gather(*(coalescer(number) for number in range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [ConnectionError] * 3
    assert calls == 1


async def test_items_behind_one_that_ends_the_lane_are_not_left_waiting() -> None:
    async def run(items: Sequence[int]) -> Sequence[int]:
        if len(items) > 1:
            raise ValueError("each is tried by itself")
        raise asyncio.CancelledError

    coalescer: Coalescer[int, int] = Coalescer(run)
    answers = await asyncio.wait_for(
        asyncio.gather(*map(coalescer, range(3)), return_exceptions=True), PATIENCE
    )
    assert [type(answer) for answer in answers] == [asyncio.CancelledError] * 3


async def test_batches_and_lanes_are_bounded() -> None:
    recorder = Recorder()
    recorder.gate.clear()
    coalescer: Coalescer[int, int] = Coalescer(recorder.run, max_batch=2, lanes=2)
    tasks = [asyncio.create_task(coalescer(number)) for number in range(8)]
    await asyncio.sleep(0.01)
    assert len(recorder.batches) == 2
    recorder.gate.set()
    await asyncio.gather(*tasks)
    assert max(len(batch) for batch in recorder.batches) == 2


class Closed:
    """Callers who each ask again as soon as they are answered; ``hold`` keeps one batch under way."""

    def __init__(self, callers: int, **how: Any) -> None:
        self.callers = callers
        self.sizes: list[int] = []
        self.under_way = self.most_at_once = 0
        self.hold: asyncio.Event | None = None
        #: The next batch is cancelled; or answers no cancel until this is set.
        self.breaks = False
        self.deaf: asyncio.Event | None = None
        self.coalescer: Coalescer[int, int] = Coalescer(self._run, lanes=2, by_turns=True, **how)

    async def _run(self, items: Sequence[int]) -> Sequence[int]:
        self.sizes.append(len(items))
        self.under_way += 1
        self.most_at_once = max(self.most_at_once, self.under_way)
        if self.breaks:
            self.breaks = False
            raise asyncio.CancelledError
        deaf, self.deaf = self.deaf, None
        while deaf and not deaf.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await deaf.wait()
        hold, self.hold = self.hold, None
        await (hold.wait() if hold else asyncio.sleep(0.001))
        self.under_way -= 1
        return items

    async def ask(self, times: int) -> None:
        async def caller(number: int) -> None:
            for _ in range(times):
                await self.coalescer(number)

        self.sizes.clear()
        self.most_at_once = 0
        await asyncio.gather(*map(caller, range(self.callers)))


@pytest.mark.parametrize(("seconds", "halves"), [(60, True), (0, False)], ids=["short batches", "long ones"])
async def test_callers_go_in_two_halves_by_turns_where_batches_are_short(
    monkeypatch: pytest.MonkeyPatch, seconds: float, halves: bool
) -> None:
    monkeypatch.setattr("shared.turns._CALLER_SECONDS", seconds)
    closed = Closed(8)
    await closed.ask(3)
    await closed.ask(20)
    assert sum(closed.sizes) == 8 * 20
    assert max(closed.sizes) == (4 if halves else 8)
    if halves:
        assert closed.most_at_once == 1


async def test_more_callers_than_two_batches_carry_have_both_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.turns._CALLER_SECONDS", 60)
    closed = Closed(40, max_batch=10)
    await closed.ask(3)
    await closed.ask(5)
    assert closed.most_at_once == 2


async def test_who_relied_on_a_lane_that_broke_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.turns._CALLER_SECONDS", 60)
    closed = Closed(8)
    await closed.ask(3)
    closed.breaks = True
    answers = await asyncio.wait_for(
        asyncio.gather(*map(closed.coalescer, range(8)), return_exceptions=True), PATIENCE
    )
    assert sum(isinstance(answer, asyncio.CancelledError) for answer in answers) == 4
    assert sum(isinstance(answer, int) for answer in answers) == 4


async def test_a_batch_that_was_given_up_counts_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may go on for ever: callers would be taken for many."""
    monkeypatch.setattr("shared.turns._CALLER_SECONDS", 60)
    closed = Closed(40, patience=0.05)
    deaf = closed.deaf = asyncio.Event()
    try:
        with pytest.raises(TimeoutError):
            await closed.ask(1)
        closed.callers = 2
        await asyncio.wait_for(closed.ask(40), PATIENCE)
        assert closed.coalescer._turns is not None
        assert not closed.coalescer._turns.on
    finally:
        deaf.set()


async def test_nobody_waits_long_for_the_other_half(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.turns._CALLER_SECONDS", 60)
    closed = Closed(8)
    await closed.ask(3)
    hold = closed.hold = asyncio.Event()
    first = asyncio.create_task(closed.ask(1))
    await asyncio.sleep(0)
    async with asyncio.timeout(PATIENCE):
        while sum(closed.sizes) < 8:
            await asyncio.sleep(0.001)
    assert closed.sizes == [4, 4]
    assert not hold.is_set()
    # Those who come now get the free lane at once.
    await asyncio.wait_for(closed.coalescer(9), PATIENCE)
    hold.set()
    await first


async def test_a_caller_that_left_costs_nothing_and_harms_nobody() -> None:
    recorder = Recorder()
    recorder.gate.clear()
    coalescer: Coalescer[int, int] = Coalescer(recorder.run)
    first = asyncio.create_task(coalescer(1))
    await begun(recorder)
    left, stayed = asyncio.create_task(coalescer(2)), asyncio.create_task(coalescer(3))
    await asyncio.sleep(0)
    left.cancel()
    await asyncio.sleep(0)
    recorder.gate.set()
    assert (await first, await stayed) == (2, 6)
    assert recorder.batches == [[1], [3]]


async def test_too_many_waiting_are_refused_at_once() -> None:
    recorder = Recorder()
    recorder.gate.clear()
    coalescer: Coalescer[int, int] = Coalescer(recorder.run, max_waiting=2)
    tasks = [asyncio.create_task(coalescer(1))]
    await asyncio.sleep(0.01)
    tasks += [asyncio.create_task(coalescer(number)) for number in (2, 3)]
    await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        await coalescer(4)
    recorder.gate.set()
    await asyncio.gather(*tasks)


async def test_patience_ends_the_wait_of_the_batch_and_of_those_behind_it() -> None:
    recorder = Recorder()
    recorder.gate.clear()
    coalescer: Coalescer[int, int] = Coalescer(recorder.run, patience=0.05)
    first = asyncio.create_task(coalescer(1))
    await asyncio.sleep(0.02)
    behind = asyncio.create_task(coalescer(2))
    found = await asyncio.gather(first, behind, return_exceptions=True)
    assert [type(error) for error in found] == [TimeoutError, TimeoutError]
    # The work was left behind, and the lane is free again.
    recorder.gate.set()
    assert await coalescer(3) == 6
    assert recorder.batches == [[1], [3]]


async def test_a_lone_call_runs_in_its_callers_task_and_the_next_one_too() -> None:
    recorder, tasks = Recorder(), []

    async def run(items: Sequence[int]) -> Sequence[int | BaseException]:
        tasks.append(asyncio.current_task())
        return await recorder.run(items)

    coalescer: Coalescer[int, int] = Coalescer(run, inline=True)
    assert [await coalescer(1), await coalescer(2)] == [2, 4]
    with pytest.raises(ValueError, match="unlucky"):
        await coalescer(13)
    assert tasks == [asyncio.current_task()] * 3


@pytest.mark.parametrize("lanes", [1, 2])
async def test_who_comes_while_a_lone_call_is_under_way_shares(lanes: int) -> None:
    recorder = Recorder()
    recorder.gate.clear()
    coalescer: Coalescer[int, int] = Coalescer(recorder.run, inline=True, lanes=lanes)
    first = asyncio.create_task(coalescer(1))
    await begun(recorder)
    others = [asyncio.create_task(coalescer(number)) for number in (2, 3)]
    for _ in range(3):
        await asyncio.sleep(0)
    assert recorder.batches == ([[1]] if lanes == 1 else [[1], [2, 3]])
    recorder.gate.set()
    assert await asyncio.gather(first, *others) == [2, 4, 6]
    assert recorder.batches == [[1], [2, 3]]
    # They will come again: none is alone now.
    assert await asyncio.gather(*(coalescer(number) for number in (4, 5))) == [8, 10]
    assert recorder.batches[2:] == [[4, 5]]


async def test_a_lone_call_that_hangs_times_out_and_others_go_on() -> None:
    recorder = Recorder()
    recorder.gate.clear()
    coalescer: Coalescer[int, int] = Coalescer(recorder.run, inline=True, patience=0.1)
    for _ in range(2):
        with pytest.raises(TimeoutError, match=r"no answer within 0\.1 s"):
            await coalescer(1)
    recorder.gate.set()
    assert await coalescer(1) == 2


async def test_a_lone_caller_who_goes_leaves_the_lane_to_others() -> None:
    recorder = Recorder()
    recorder.gate.clear()
    coalescer: Coalescer[int, int] = Coalescer(recorder.run, inline=True)
    first = asyncio.create_task(coalescer(1))
    await begun(recorder)
    second = asyncio.create_task(coalescer(2))
    await asyncio.sleep(0)
    first.cancel()
    recorder.gate.set()
    async with asyncio.timeout(PATIENCE):
        assert await second == 4
