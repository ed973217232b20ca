from __future__ import annotations

import logging
from types import SimpleNamespace

import psycopg
import pytest
from sqlalchemy.exc import OperationalError

from shared import outage
from shared.outage import Outage, reason

log = logging.getLogger("test.outage")
REFUSED = OperationalError("SELECT 1", {}, psycopg.OperationalError("connection refused\n\tIs it running?"))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    made = SimpleNamespace(now=100.0)
    monkeypatch.setattr(outage, "time", SimpleNamespace(monotonic=lambda: made.now))
    return made


def test_one_line_when_it_begins_and_one_when_it_is_over(
    clock: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    away = Outage(log, "the database")
    away.went_well()
    for _ in range(275):
        away.failed(REFUSED)
        clock.now += 0.1
    clock.now += 2
    away.went_well()
    away.went_well()
    assert caplog.messages == [
        "the database cannot be used: connection refused; trying again",
        "the database can be used again; it could not for 27.4 s (275 tries)",
    ]


def test_a_long_one_is_mentioned_each_minute(
    clock: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    away = Outage(log, "the database")
    for _ in range(150):
        away.failed(REFUSED)
        clock.now += 1
    assert [line for line in caplog.messages if "since" in line] == [
        "the database cannot be used since 60 s (61 tries): connection refused",
        "the database cannot be used since 120 s (121 tries): connection refused",
    ]


def test_tries_that_go_well_in_between_do_not_make_it_many(
    clock: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    away = Outage(log, "the database")
    for _ in range(50):
        away.failed(REFUSED)
        away.went_well()
        clock.now += 0.1
    assert len(caplog.messages) == 1


def test_a_reason_is_never_empty_or_long() -> None:
    assert reason(TimeoutError()) == "TimeoutError"
    assert reason(ConnectionError("x" * 10_000)) == "x" * 300
