"""The arithmetic of gates: how many calls may begin now."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.gates.limits import Gate, admit

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
OPEN = Gate(model="m", now=NOW, running=0)


def test_a_gate_without_limits_lets_everything_through() -> None:
    assert admit(OPEN, 1000).calls == 1000


def test_a_paused_gate_lets_nothing_through_and_says_until_when() -> None:
    until = NOW + timedelta(seconds=3)
    admission = admit(replace(OPEN, paused_until=until), 5)
    assert (admission.calls, admission.opens_at) == (0, until)


def test_a_pause_that_is_over_holds_nothing_back() -> None:
    assert admit(replace(OPEN, paused_until=NOW), 5).calls == 5


@pytest.mark.parametrize(("running", "calls"), [(0, 4), (3, 1), (4, 0), (9, 0)])
def test_calls_under_way_count_against_both_limits(running: int, calls: int) -> None:
    assert admit(replace(OPEN, running=running, max_in_flight=4), 10).calls == calls
    assert admit(replace(OPEN, running=running, allowance=4), 10).calls == calls


def test_the_stricter_of_configured_and_learned_limit_holds() -> None:
    assert replace(OPEN, rpm=60, learned_rpm=20).calls_per_minute == 20
    assert replace(OPEN, rpm=10, learned_rpm=20).calls_per_minute == 10


@settings(deadline=None)
@given(
    rpm=st.integers(1, 3000),
    steps=st.lists(st.tuples(st.floats(0, 20), st.integers(0, 200)), min_size=1, max_size=80),
)
def test_no_minute_wherever_it_begins_holds_more_calls_than_the_limit(
    rpm: int, steps: list[tuple[float, int]]
) -> None:
    now, next_slot, begun = NOW, None, list[datetime]()
    for wait, wanted in steps:
        now += timedelta(seconds=wait)
        admission = admit(replace(OPEN, now=now, rpm=rpm, next_slot_at=next_slot), wanted)
        next_slot = admission.next_slot_at
        begun += [now] * admission.calls
        assert admission.calls <= wanted
    for first, start in enumerate(begun):
        assert bisect_left(begun, start + timedelta(seconds=60)) - first <= rpm


@pytest.mark.parametrize(("rpm", "share"), [(2, 0.45), (20, 0.85), (60, 0.9), (600, 0.9), (3000, 0.9)])
def test_the_limit_is_nearly_used_up(rpm: int, share: float) -> None:
    now, next_slot, calls = NOW, None, 0
    for _ in range(600):  # ten minutes, a look every second
        now += timedelta(seconds=1)
        admission = admit(replace(OPEN, now=now, rpm=rpm, next_slot_at=next_slot), 10_000)
        next_slot = admission.next_slot_at
        calls += admission.calls
    assert calls >= share * rpm * 10
