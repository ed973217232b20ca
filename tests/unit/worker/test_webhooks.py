"""When webhooks are sent again, and how many at once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from uuid import uuid4

import pytest

from worker.webhooks import schedule
from worker.webhooks.feed import LANES, lane_of
from worker.webhooks.lanes import AT_ONCE, IN_ALL, UNPROVEN, Lanes

_HOUR = 3600.0


def test_the_schedule_is_the_standards_with_jitter_upwards() -> None:
    standard = [5, 300, 1800, *(hours * _HOUR for hours in (2, 5, 10, 14, 20, 24))]
    delays = [[schedule.delay(failures, None) for _ in range(50)] for failures in range(9)]
    for planned, drawn in zip(standard, delays, strict=True):
        assert all(delay is not None and planned <= delay <= 1.2 * planned for delay in drawn)
        assert len(set(drawn)) > 10
    assert schedule.delay(9, None) is None
    assert schedule.delay(9, 60) is None


def test_retry_after_is_honoured_up_to_a_day() -> None:
    assert schedule.delay(0, 100.0) == 100
    assert (schedule.delay(1, 100.0) or 0) >= 300  # never sooner than planned
    assert schedule.delay(0, 10.0**9) == 24 * _HOUR


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120),
        (" 0 ", 0),
        (None, None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("٣", None),
        ("", None),
        ("Mon, 01 Jan 2024 00:00:00 +99999999999999999999", None),
        ("Mon, 01 Jan 99999999999999999999 00:00:00 GMT", None),
    ],
)
def test_retry_after_in_seconds(value: str | None, seconds: float | None) -> None:
    assert schedule.retry_after(value) == seconds


def test_retry_after_as_a_date() -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(minutes=10), usegmt=True)
    assert 590 <= (schedule.retry_after(later) or 0) <= 600
    assert schedule.retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert schedule.retry_after("9" * 400) is not None


def test_a_lane_that_answers_has_room_until_it_is_full_and_another_for_one() -> None:
    found, lane = Lanes(), (uuid4(), "")
    assert found.rooms() == []  # what nothing was sent to is not told of: it has room for one
    found.begin(lane)
    assert [(entry["room"], entry["well"]) for entry in found.rooms()] == [(0, False)]
    found.end(lane, ok=True, pause=None)
    for _ in range(3):
        found.begin(lane)
    assert [(entry["room"], entry["busy"]) for entry in found.rooms()] == [(AT_ONCE - 3, 3)]
    assert found.room == IN_ALL - 3
    found.end(lane, ok=False, pause=None)
    assert [entry["room"] for entry in found.rooms()] == [0]  # two are under way, and one may be
    found.end(lane, ok=False, pause=None)
    found.end(lane, ok=False, pause=None)
    assert found.rooms() == []
    assert found.room == IN_ALL


def test_what_does_not_answer_has_half_of_the_room() -> None:
    found = Lanes()
    for _ in range(60):
        found.begin((uuid4(), ""))
    good = (uuid4(), "")
    found.begin(good)
    assert found.room_for_unproven == UNPROVEN - 61
    found.end(good, ok=True, pause=None)
    found.begin(good)
    assert found.room_for_unproven == UNPROVEN - 60


def test_what_is_remembered_is_bounded() -> None:
    found = Lanes()
    for _ in range(2500):
        lane = (uuid4(), "")
        found.begin(lane)
        found.end(lane, ok=True, pause=None)
    assert len(found.rooms()) <= 2000


def test_a_lane_that_asks_for_it_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    found, lane = Lanes(), (uuid4(), "https://example.com")
    found.begin(lane)
    found.end(lane, ok=False, pause=60.0)
    assert [entry["room"] for entry in found.rooms()] == [0]
    now = 1061.0
    assert [(entry["room"], entry["well"]) for entry in found.rooms()] == [(1, False)]


def test_addresses_of_one_server_share_a_lane() -> None:
    assert lane_of("https://Example.com:8443/a?b=c") == lane_of("https://example.com:8443/d")
    assert lane_of("https://example.com/") != lane_of("http://example.com/")


def test_a_project_has_a_bounded_number_of_lanes() -> None:
    """Each claim looks at every one: a million would stop all webhooks."""
    made = {lane_of(f"https://tenant{n}.example.com/") for n in range(40_000)}
    assert LANES - 10 < len(made) <= LANES
