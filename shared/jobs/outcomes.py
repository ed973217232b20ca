"""How an attempt ends, and what follows: pure decisions, written as rows for ``queries.finish``.

| what happened                         | outcome   | then                                                   |
|---------------------------------------|-----------|--------------------------------------------------------|
| answer                                | succeeded | succeeded                                              |
| ``RetryableError``                    | failed    | queued after backoff, or failed at ``max_attempts``    |
| ``RateLimitedError``                  | failed    | queued until the provider's time; counts as no attempt |
| ``PermanentError``                    | failed    | failed                                                 |
| ``UnknownOutcomeError``               | unknown   | by ``on_unknown``: queued after backoff, or failed     |
| worker lost before the note of a call | lost      | queued at once, or failed at ``max_attempts``          |
| worker lost after the note of a call  | unknown   | by ``on_unknown``                                      |
| worker told to stop before the call   | lost      | queued at once; counts as no attempt                   |
| cancelled                             | cancelled | cancelled                                              |
| answer that cannot be stored          | failed    | failed                                                 |
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID

from shared.jobs.status import OnUnknown, Outcome, State, WaitingReason
from shared.providers.base import PermanentError, ProviderError, RateLimitedError, UnknownOutcomeError

_MAX_MESSAGE = 2000
_MAX_NAME = 500
#: A provider that asks to wait for no time at all is not asked again at once, and again, and again.
_SHORTEST_PAUSE = 0.5
#: What one call may cost at most, as far as we believe it: twenty of these fit the column.
_MOST_COST = Decimal(40_000)


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential with full jitter: anything from nothing to the bound, so that retries spread."""

    base: float
    cap: float

    def delay(self, tries: int) -> float:
        """Seconds to wait after the given number of tries (1 for the first)."""
        return random.uniform(0, min(self.cap, self.base * 2 ** min(tries - 1, 30)))  # noqa: S311  spreads load


@dataclass(frozen=True, slots=True)
class Claimed:
    """What a decision needs to know of a running attempt."""

    job_id: UUID
    number: int
    snoozes: int
    max_attempts: int
    on_unknown: str

    @property
    def used(self) -> int:
        """Attempts used up, this one included."""
        return self.number - self.snoozes

    @property
    def may_try_again(self) -> bool:
        return self.used < self.max_attempts


@dataclass(frozen=True, slots=True)
class Served:
    """Who answered, as far as is known."""

    provider: str | None = None
    upstream_model: str | None = None
    model_version: str | None = None
    upstream_request_id: str | None = None
    usage: dict[str, int] | None = None
    cost: Decimal = Decimal(0)
    #: USD that was expected before the call.
    estimate: Decimal | None = None


def succeeded(job: Claimed, result: dict[str, Any], served: Served) -> dict[str, Any]:
    return _row(job, State.SUCCEEDED, Outcome.SUCCEEDED, served, result=result, answered=True)


def after_error(job: Claimed, error: ProviderError, served: Served, backoff: Backoff) -> dict[str, Any]:
    """What follows a driver's error."""
    problem = {"code": error.error_code, "message": clean(error.message)[:_MAX_MESSAGE]}
    if error.status is not None:
        problem["provider_status"] = error.status
    answered = error.status is not None
    match error:
        case RateLimitedError():
            wanted = backoff.delay(job.snoozes + 1) if error.delay is None else error.delay
            delay = max(wanted, _SHORTEST_PAUSE)
            reason = WaitingReason.RATE_LIMITED
            return _again(
                job, Outcome.FAILED, served, problem, delay, reason, answered=answered, counted=False
            )
        case PermanentError():
            return _failed(job, Outcome.FAILED, served, problem, answered=answered)
        case UnknownOutcomeError():
            return _unknown(job, served, problem, backoff)
        case _:
            if not job.may_try_again:
                return _failed(job, Outcome.FAILED, served, problem, answered=answered, retryable=True)
            delay = backoff.delay(job.used)
            reason = WaitingReason.RETRY_BACKOFF
            return _again(job, Outcome.FAILED, served, problem, delay, reason, answered=answered)


def not_called(row: dict[str, Any]) -> dict[str, Any]:
    """The ending of an attempt that is known not to have called, whatever was noted beforehand."""
    return row | {"not_called": True}


def after_cancel(job: Claimed, served: Served, *, provider_called: bool) -> dict[str, Any]:
    row = _row(
        job,
        State.CANCELLED,
        Outcome.CANCELLED,
        served,
        data={"provider_called": provider_called},
        event="job.cancelled",
    )
    return row if provider_called else not_called(row)


def after_loss(job: Claimed, served: Served, *, sent: bool, backoff: Backoff) -> dict[str, Any]:
    """What follows when a worker vanished: its lease ran out."""
    if sent:
        problem = {
            "code": "worker_lost",
            "message": "The worker was lost while the provider was being called; the call may have been billed.",
        }
        return _unknown(job, served, problem, backoff)
    problem = {"code": "worker_lost", "message": "The worker was lost before the provider was called."}
    if not job.may_try_again:
        return _failed(job, Outcome.LOST, served, problem, retryable=True)
    return _again(job, Outcome.LOST, served, problem, 0.0, WaitingReason.RETRY_BACKOFF)


def given_back(job: Claimed) -> dict[str, Any]:
    """A worker that was told to stop has claimed the job and not called the provider: another one may, at once."""
    problem = {"code": "worker_stopped", "message": "The worker stopped before the provider was called."}
    return not_called(
        _again(job, Outcome.LOST, Served(), problem, 0.0, WaitingReason.RETRY_BACKOFF, counted=False)
    )


def not_storable(row: dict[str, Any], why: str) -> dict[str, Any]:
    """The ending of an attempt whose answer came, was paid for and cannot be stored: failed, not tried again.

    Args:
        row: the ending that could not be written; what it cost stays.
        why: a word for people, such as the error's class.
    """
    return row | {
        "state": State.FAILED,
        "outcome": Outcome.FAILED,
        "result": None,
        "error": {
            "code": "internal_error",
            "message": f"The provider's answer could not be stored ({why}).",
            "retryable": True,
        },
        "model_version": None,
        "upstream_request_id": None,
        "usage": None,
        "event": "job.failed",
        "data": {"attempt": row["number"], "outcome": Outcome.FAILED, "error_code": "internal_error"},
    }


def _unknown(job: Claimed, served: Served, problem: dict[str, Any], backoff: Backoff) -> dict[str, Any]:
    if job.on_unknown == OnUnknown.FAIL:
        problem["message"] += " on_unknown is fail, so it was not called again."
        return _failed(job, Outcome.UNKNOWN, served, problem, retryable=True)
    if not job.may_try_again:
        return _failed(job, Outcome.UNKNOWN, served, problem, retryable=True)
    return _again(job, Outcome.UNKNOWN, served, problem, backoff.delay(job.used), WaitingReason.RETRY_BACKOFF)


def _failed(
    job: Claimed,
    outcome: Outcome,
    served: Served,
    problem: dict[str, Any],
    *,
    answered: bool = False,
    retryable: bool = False,
) -> dict[str, Any]:
    """``retryable`` tells the client that the same job, submitted anew, may well succeed."""
    error = {**problem, "retryable": retryable}
    return _row(job, State.FAILED, outcome, served, error=error, answered=answered)


def _again(
    job: Claimed,
    outcome: Outcome,
    served: Served,
    problem: dict[str, Any],
    delay: float,
    reason: WaitingReason,
    *,
    answered: bool = False,
    counted: bool = True,
) -> dict[str, Any]:
    row = _row(
        job,
        State.QUEUED,
        outcome,
        served,
        error={**problem, "retryable": True},
        answered=answered,
        data={"waiting_reason": reason, "error_code": problem["code"]},
        event="job.retry_scheduled",
    )
    return row | {"delay": max(delay, 0.0), "waiting_reason": reason, "counted": counted}


def _row(
    job: Claimed,
    state: State,
    outcome: Outcome,
    served: Served,
    *,
    result: dict[str, Any] | None = None,
    error: dict[str, Any] | None = None,
    answered: bool = False,
    data: dict[str, Any] | None = None,
    event: str | None = None,
) -> dict[str, Any]:
    facts: dict[str, Any] = {"attempt": job.number, "outcome": outcome}
    if error is not None and state == State.FAILED:
        facts["error_code"] = error["code"]
    return {
        "job_id": job.job_id,
        "number": job.number,
        "state": state,
        "outcome": outcome,
        "counted": True,
        "answered": answered,
        "not_called": False,
        "estimate": served.estimate,
        "result": result,
        "error": error,
        "delay": 0.0,
        "waiting_reason": None,
        "provider": served.provider,
        "upstream_model": served.upstream_model,
        "model_version": _name(served.model_version),
        "upstream_request_id": _name(served.upstream_request_id),
        "usage": served.usage,
        "cost": min(served.cost, _MOST_COST),
        "event": event or f"job.{state}",
        "data": facts | (data or {}),
    }


def _name(told: str | None) -> str | None:
    """A word of the provider's, such as a version: as hostile as the rest of its answer."""
    return None if told is None else str(clean(told))[:_MAX_NAME]


def clean(value: Any) -> Any:
    """The same JSON value without what PostgreSQL's jsonb cannot hold: U+0000 and lone surrogates."""
    match value:
        case str():
            return value.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()
        case dict():
            return {clean(name): clean(item) for name, item in value.items()}
        case list() | tuple():
            return [clean(item) for item in value]
        case _:
            return value
