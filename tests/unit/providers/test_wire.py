from __future__ import annotations

from datetime import UTC, datetime

import orjson
import pytest

from shared.providers.base import PermanentError, RateLimitedError, RetryableError
from shared.providers.wire import error_from, read_text, until_midnight_pacific

NOW = datetime(2026, 11, 23, 20, 0, tzinfo=UTC)


def limited(*details: dict[str, object], message: str = "slow down") -> bytes:
    return orjson.dumps({"error": {"code": 429, "message": message, "details": list(details)}})


@pytest.mark.parametrize(
    ("now", "hours"),
    [
        (datetime(2026, 11, 23, 20, 0, tzinfo=UTC), 12),  # noon in winter time
        (datetime(2026, 7, 1, 7, 0, tzinfo=UTC), 24),  # exactly midnight
        (datetime(2026, 3, 8, 8, 0, tzinfo=UTC), 23),  # the clocks go forward that day
        (datetime(2026, 11, 1, 7, 0, tzinfo=UTC), 25),  # and back that day
    ],
)
def test_midnight_pacific_knows_the_clock_changes(now: datetime, hours: int) -> None:
    assert until_midnight_pacific(now) == hours * 3600


def test_daily_quota_wins_over_the_short_retry_info_beside_it() -> None:
    body = limited(
        {"violations": [{"quotaId": "GenerateRequestsPerDayPerProjectPerModel"}]}, {"retryDelay": "31s"}
    )

    error = error_from(429, body, {}, now=NOW)

    assert isinstance(error, RateLimitedError)
    assert (error.error_code, error.delay) == ("quota_exhausted", 12 * 3600)


@pytest.mark.parametrize(
    ("body", "headers", "delay"),
    [
        (limited({"retryDelay": "34.07s"}), {}, 34.07),
        (limited({"retryDelay": "soon"}), {}, None),
        (limited({"retryDelay": "-4s"}), {}, None),
        (limited({"retryDelay": "nans"}), {}, None),
        (limited(), {"retry-after": "9"}, 9.0),
        (limited(), {"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, None),
        (b"[" + limited({"retryDelay": "2s"}) + b"]", {}, 2.0),
        (b"<html>", {}, None),
        (b"", {}, None),
    ],
)
def test_rate_limit_delay(body: bytes, headers: dict[str, str], delay: float | None) -> None:
    error = error_from(429, body, headers, now=NOW)

    assert isinstance(error, RateLimitedError)
    assert error.delay == delay


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, "invalid_request"), (401, "unauthenticated"), (413, "invalid_request"), (404, "model_not_found")],
)
def test_permanent_statuses(status: int, code: str) -> None:
    error = error_from(status, b"no json", {})

    assert isinstance(error, PermanentError)
    assert error.error_code == code


@pytest.mark.parametrize("status", [301, 408, 409, 499, 500, 502, 503, 504, 529])
def test_transient_statuses(status: int) -> None:
    assert isinstance(error_from(status, b"<html>bad</html>", {}), RetryableError)


def test_account_that_may_not_is_no_fault_of_the_request() -> None:
    body = orjson.dumps({"error": {"status": "FAILED_PRECONDITION", "message": "country not supported"}})

    assert error_from(400, body, {}).error_code == "permission_denied"


def test_thoughts_are_no_text_and_snake_case_is_read() -> None:
    answer = read_text(
        orjson.dumps(
            {
                "candidates": [
                    {
                        "content": {"parts": [{"text": "hm", "thought": True}, {"text": "a"}, {"text": "b"}]},
                        "finish_reason": "STOP",
                    }
                ],
                "usage_metadata": {
                    "prompt_token_count": 2,
                    "candidates_token_count": 3,
                    "thoughts_token_count": 4,
                },
                "model_version": "m",
            }
        )
    )

    assert (answer.text, answer.finish_reason, answer.model_version) == ("ab", "stop", "m")
    assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.thought_tokens) == (2, 3, 4)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"candidates":[]}',
        b'{"candidates":null}',
        b'{"candidates":["x"]}',
        b'{"candidates":{"0":1}}',
        b'{"promptFeedback":{}}',
        b'{"a":',
        b"\xff\xfe",
    ],
)
def test_answers_without_sense_are_malformed(body: bytes) -> None:
    with pytest.raises(RetryableError) as caught:
        read_text(body)

    assert caught.value.error_code == "malformed_response"
    assert caught.value.billed is None
