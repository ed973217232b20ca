"""The table of outcomes row by row, and what it leans on."""

from __future__ import annotations

from decimal import Decimal
from typing import Any
from uuid import UUID

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.jobs import outcomes
from shared.jobs.outcomes import Backoff, Claimed, Served, clean
from shared.jobs.status import TRANSITIONS, State
from shared.providers.base import (
    PermanentError,
    ProviderError,
    RateLimitedError,
    RetryableError,
    UnknownOutcomeError,
)

JOB_ID = UUID("0199a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b")
BACKOFF = Backoff(base=2, cap=300)
SERVED = Served(provider="simulator", upstream_model="up", model_version="v1", cost=Decimal("0.01"))
LAST = {"number": 5, "max_attempts": 5}


def job(**fields: Any) -> Claimed:
    return Claimed(
        **{"job_id": JOB_ID, "number": 1, "snoozes": 0, "max_attempts": 5, "on_unknown": "retry", **fields}
    )


def after(error: ProviderError, **fields: Any) -> dict[str, Any]:
    return outcomes.after_error(job(**fields), error, SERVED, BACKOFF)


def lost(*, sent: bool, **fields: Any) -> dict[str, Any]:
    return outcomes.after_loss(job(**fields), SERVED, sent=sent, backoff=BACKOFF)


RETRYABLE = RetryableError("500: oh no", status=500)
REFUSED = RetryableError("nobody listens")
LIMITED = RateLimitedError("slow down", delay=7.5, status=429)
UNKNOWN = UnknownOutcomeError("reset by peer")
PERMANENT = PermanentError("blocked", reason="safety_blocked", status=200)

#: row, then: state, outcome, event, waiting_reason, counted, answered, error code, retryable
TABLE = [
    (
        outcomes.succeeded(job(), {"text": "x"}, SERVED),
        ("succeeded", "succeeded", "job.succeeded", None, True, True, None, None),
    ),
    (
        after(RETRYABLE),
        (
            "queued",
            "failed",
            "job.retry_scheduled",
            "retry_backoff",
            True,
            True,
            "provider_unavailable",
            True,
        ),
    ),
    (
        after(REFUSED),
        (
            "queued",
            "failed",
            "job.retry_scheduled",
            "retry_backoff",
            True,
            False,
            "provider_unavailable",
            True,
        ),
    ),
    (
        after(RETRYABLE, **LAST),
        ("failed", "failed", "job.failed", None, True, True, "provider_unavailable", True),
    ),
    (
        after(LIMITED),
        ("queued", "failed", "job.retry_scheduled", "rate_limited", False, True, "rate_limited", True),
    ),
    (
        after(LIMITED, **LAST),
        ("queued", "failed", "job.retry_scheduled", "rate_limited", False, True, "rate_limited", True),
    ),
    (after(PERMANENT), ("failed", "failed", "job.failed", None, True, True, "safety_blocked", False)),
    (
        after(UNKNOWN),
        ("queued", "unknown", "job.retry_scheduled", "retry_backoff", True, False, "connection_lost", True),
    ),
    (
        after(UNKNOWN, on_unknown="fail"),
        ("failed", "unknown", "job.failed", None, True, False, "connection_lost", True),
    ),
    (
        after(UNKNOWN, **LAST),
        ("failed", "unknown", "job.failed", None, True, False, "connection_lost", True),
    ),
    (
        lost(sent=False),
        ("queued", "lost", "job.retry_scheduled", "retry_backoff", True, False, "worker_lost", True),
    ),
    (
        lost(sent=False, on_unknown="fail"),
        ("queued", "lost", "job.retry_scheduled", "retry_backoff", True, False, "worker_lost", True),
    ),
    (
        lost(sent=False, **LAST),
        ("failed", "lost", "job.failed", None, True, False, "worker_lost", True),
    ),
    (
        lost(sent=True),
        ("queued", "unknown", "job.retry_scheduled", "retry_backoff", True, False, "worker_lost", True),
    ),
    (
        lost(sent=True, on_unknown="fail"),
        ("failed", "unknown", "job.failed", None, True, False, "worker_lost", True),
    ),
    (
        outcomes.after_cancel(job(), SERVED, provider_called=True),
        ("cancelled", "cancelled", "job.cancelled", None, True, False, None, None),
    ),
    (
        outcomes.not_storable(outcomes.succeeded(job(), {"text": "x"}, SERVED), "RecursionError"),
        ("failed", "failed", "job.failed", None, True, True, "internal_error", True),
    ),
]


@pytest.mark.parametrize(("row", "expected"), TABLE)
def test_each_row_of_the_table(row: dict[str, Any], expected: tuple[Any, ...]) -> None:
    error = row["error"] or {}
    found = (
        str(row["state"]),
        str(row["outcome"]),
        row["event"],
        row["waiting_reason"] and str(row["waiting_reason"]),
        row["counted"],
        row["answered"],
        error.get("code"),
        error.get("retryable"),
    )
    assert found == expected
    assert row["state"] in TRANSITIONS[State.RUNNING]
    assert (row["result"] is not None) == (row["state"] == "succeeded")
    assert (row["job_id"], row["number"]) == (JOB_ID, row["data"]["attempt"])
    assert row["data"]["outcome"] == row["outcome"]
    assert row["data"].get("error_code") == error.get("code")
    assert row["cost"] == Decimal("0.01")
    orjson.dumps(row, default=str)


def test_a_failed_job_is_told_the_status() -> None:
    assert after(PERMANENT)["error"]["provider_status"] == 200
    assert "provider_status" not in after(UNKNOWN)["error"]


def test_the_provider_says_how_long_to_wait() -> None:
    assert after(LIMITED)["delay"] == 7.5


def test_a_wait_of_nothing_is_not_taken_at_its_word() -> None:
    """It uses up no attempt, so it would be a loop without end, as fast as the provider answers."""
    for delay in (0.0, -1.0, 0.001):
        assert after(RateLimitedError("slow down", delay=delay))["delay"] >= 0.5
    assert all(after(RateLimitedError("slow down", delay=None))["delay"] >= 0.5 for _ in range(50))


def test_a_worker_lost_before_the_call_is_replaced_at_once() -> None:
    assert lost(sent=False)["delay"] == 0


def test_a_rate_limit_leaves_the_attempts_as_they_were() -> None:
    """Five claims, of which four were snoozes: the next error is the second attempt's at most."""
    assert job(number=5, snoozes=4).used == 1
    assert after(RETRYABLE, number=8, snoozes=4)["state"] == "queued"
    assert after(RETRYABLE, number=9, snoozes=4)["state"] == "failed"


def test_a_cancel_says_whether_the_provider_was_called() -> None:
    for called in (True, False):
        row = outcomes.after_cancel(job(), SERVED, provider_called=called)
        assert row["data"]["provider_called"] is called


def test_the_policy_is_named_where_it_decided() -> None:
    assert "on_unknown" in after(UNKNOWN, on_unknown="fail")["error"]["message"]
    assert "on_unknown" not in after(UNKNOWN, **LAST)["error"]["message"]


def test_no_call_costs_more_than_the_table_can_hold() -> None:
    dear = Served(cost=Decimal(10) ** 12)
    assert outcomes.succeeded(job(), {}, dear)["cost"] * 20 < 10**6


def test_what_cannot_be_stored_keeps_its_price_and_nothing_of_the_answer() -> None:
    served = Served(
        provider="google",
        model_version="v",
        usage={"input_tokens": 1},
        cost=Decimal(1),
        upstream_request_id="r",
    )
    row = outcomes.not_storable(outcomes.succeeded(job(), {"text": "x"}, served), "why")
    assert (row["cost"], row["provider"]) == (Decimal(1), "google")
    assert (row["result"], row["usage"], row["model_version"], row["upstream_request_id"]) == (None,) * 4


@pytest.mark.parametrize(("tries", "bound"), [(1, 2), (2, 4), (3, 8), (8, 256), (9, 300), (1000, 300)])
def test_backoff_is_full_jitter_within_its_bound(tries: int, bound: float) -> None:
    delays = [BACKOFF.delay(tries) for _ in range(400)]
    assert 0 <= min(delays) < bound * 0.1
    assert bound * 0.9 < max(delays) <= bound


@pytest.mark.parametrize(
    ("value", "cleaned"),
    [
        ("a\x00b", "a\ufffdb"),
        ("a\ud800b", "a?b"),
        ("\ud83d\ude00", "??"),
        ("😀", "😀"),
        ({"k\x00": ["\x00", {"\udfff": 1}]}, {"k\ufffd": ["\ufffd", {"?": 1}]}),
        ((1, "\x00"), [1, "\ufffd"]),
        ([1, 1.5, True, None], [1, 1.5, True, None]),
    ],
)
def test_clean(value: Any, cleaned: Any) -> None:
    assert clean(value) == cleaned


def test_a_providers_words_are_cleaned_wherever_they_stand() -> None:
    hostile = "v\x00\ud800" + "x" * 5000
    served = Served(model_version=hostile, upstream_request_id=hostile)
    row = outcomes.after_error(job(), RetryableError(hostile), served, BACKOFF)
    for told in (row["error"]["message"], row["model_version"], row["upstream_request_id"]):
        assert told.startswith("v\ufffd?xxx")
        assert len(told) <= 2000


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(st.characters()),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters()), inner),
    )
)
def test_what_is_clean_can_be_stored_and_cleaning_twice_is_once(value: Any) -> None:
    once = clean(value)
    assert b"\\u0000" not in orjson.dumps(once).replace(b"\\\\", b"")
    assert clean(once) == once
