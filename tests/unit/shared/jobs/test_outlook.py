"""When jobs will start, worked out from what waits, runs and how long attempts take."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import pytest

from shared.jobs.outlook import COUNTED, Backlog, Served, Spread, Workers, microseconds, moments, served
from shared.queue import ALL_QUEUES

NOW = datetime(2030, 1, 1, tzinfo=UTC)
TWO_SECONDS = Spread(2.0, 2.0, 2.0)


def published(count: int, *, age: float = 5.0) -> array[int]:
    """Messages a millisecond apart, the first so many seconds ago."""
    first = microseconds(NOW - timedelta(seconds=age))
    return array("q", range(first, first + count * 1000, 1000))


def queues(
    *,
    waiting: dict[str, array[int]] | None = None,
    running: dict[str, int] | None = None,
    workers: Iterable[Workers] = (Workers(frozenset(ALL_QUEUES), 10),),
    seconds: dict[str, Spread] | None = None,
) -> dict[str, Served]:
    lanes = {queue: array("q") for queue in ALL_QUEUES} | (waiting or {})
    took = dict.fromkeys(ALL_QUEUES, TWO_SECONDS) | (seconds or {})
    return served(lanes, running or {}, list(workers), took, NOW)


def wait(before: int, queue: str = "text.standard", **given: object) -> tuple[float, float] | None:
    return queues(**given)[queue].wait(before)  # type: ignore[arg-type]


def test_a_free_slot_is_no_wait() -> None:
    assert wait(0) == (0, 0)
    assert wait(5, running={"image.batch": 4}) == (0, 0), "ten slots, four busy, five before it"
    assert wait(6, running={"image.batch": 4}) != (0, 0)


def test_slots_and_seconds_make_the_pace() -> None:
    busy = {"text.standard": 10}
    assert wait(0, running=busy) == pytest.approx((0.2, 2)), (
        "one of ten ends in a fifth of a second, or all in two"
    )
    assert wait(999, running=busy) == pytest.approx((200, 200))
    p50, p90 = wait(999, running=busy, seconds={"text.standard": Spread(2, 1.5, 5)}) or (0, 0)
    assert (p50, p90) == pytest.approx((200, 500)), "the mean for many, nine in ten at most for the cautious"


def test_more_urgent_queues_of_the_same_workers_come_first_and_the_other_kind_takes_turns() -> None:
    busy = {"text.standard": 10}
    long = {"image.interactive": Spread(20, 20, 20), "image.standard": Spread(20, 20, 20)}
    urgent = {"image.interactive": published(100)}
    assert wait(0, running=busy, waiting=urgent, seconds=long) == pytest.approx((101 * 20 / 10, 11 * 20))
    batch = {"text.batch": published(1000)}
    assert wait(0, running=busy, waiting=batch) == pytest.approx((0.2, 2)), (
        "what is less urgent counts for nothing"
    )
    rivals = {"image.standard": published(1000)}
    p50, _ = wait(10, running=busy, waiting=rivals, seconds=long) or (0, 0)
    assert p50 == pytest.approx(21 * 11 / 10), "ten of each kind first, eleven seconds each on average"
    apart = [Workers(frozenset({"text.standard"}), 10), Workers(frozenset({"image.interactive"}), 10)]
    assert wait(0, running=busy, waiting=urgent, workers=apart, seconds=long) == pytest.approx((0.2, 2))


def test_nothing_is_foretold_without_workers_or_where_they_hear_nothing() -> None:
    assert wait(0, workers=[]) is None
    stalled = {"text.standard": published(1, age=60)}
    assert wait(0, waiting=stalled) is None, "slots are free, and nobody takes it"
    assert wait(0, waiting=stalled, running={"text.batch": 10}) is not None, "old because all are busy"


def test_positions_and_times() -> None:
    lane = published(1000)
    found = Backlog(NOW, 100.0, queues(waiting={"text.standard": lane}, running={"text.standard": 10}))
    first = NOW - timedelta(seconds=5)
    for before in (0, 1, 500, 999):
        moment = first + timedelta(milliseconds=before)
        assert found.position("text.standard", moment) == before + 1
    assert found.position("text.standard", NOW) == 1001, "behind all that was there"
    assert found.wait("text.standard", COUNTED + 1) is None
    wait = found.wait("text.standard", 1000)
    assert wait == pytest.approx((200, 200))
    assert found.start(wait or (0, 0), age=1).p50 == NOW + timedelta(seconds=200)
    assert found.start((0.2, 2), age=60) == (NOW + timedelta(minutes=1),) * 2, "never in the past"
    soon, later = (
        found.start_later("text.standard", NOW + timedelta(seconds=seconds), age=0) for seconds in (10, 1000)
    )
    assert soon is not None
    assert later is not None
    assert (soon.p50, soon.p90) == (NOW + timedelta(seconds=200.2), NOW + timedelta(seconds=10 + 202))
    assert later.p50 == NOW + timedelta(seconds=1000), "by then what waits now is done"


def test_times_are_read_as_postgresql_sends_them() -> None:
    moment = datetime(2026, 11, 25, 17, 35, 22, 123456, tzinfo=UTC)
    assert list(moments(microseconds(moment).to_bytes(8, "big") * 2)) == [microseconds(moment)] * 2
