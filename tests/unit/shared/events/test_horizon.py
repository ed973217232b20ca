"""Which events are settled."""

from __future__ import annotations

from shared.events.horizon import Horizon, Mark


def test_a_mark_settles_when_nothing_as_old_is_under_way() -> None:
    horizon = Horizon(5)
    horizon.note(Mark(7, xid=100))
    horizon.settle(99)
    assert (horizon.settled, horizon.waits) == (5, True)
    horizon.settle(100)
    assert horizon.settled == 5, "the transaction that made the mark is no proof of those before it"
    horizon.settle(101)
    assert (horizon.settled, horizon.waits) == (7, False)


def test_marks_settle_one_after_the_other() -> None:
    horizon = Horizon(0)
    for mark in (Mark(3, 10), Mark(3, 11), Mark(8, 12), Mark(9, 15)):
        horizon.note(mark)
    horizon.settle(11)
    assert horizon.settled == 3, "the first mark with a number counts"
    horizon.settle(13)
    assert horizon.settled == 8
    horizon.settle(16)
    assert horizon.settled == 9


def test_nothing_new_is_no_mark() -> None:
    horizon = Horizon(9)
    horizon.note(Mark(9, 50))
    assert not horizon.waits


def test_an_old_transaction_costs_time_and_no_memory() -> None:
    horizon = Horizon(0)
    for number in range(1, 10_000):
        horizon.note(Mark(number, 100 + number))
    assert len(horizon._marks) == 64
    horizon.settle(1_000_000)
    assert horizon.settled == 9_999
