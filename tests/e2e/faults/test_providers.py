"""Fault 21: everything a provider does wrong, and storms of refusals."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.e2e.faults.conftest import NewStack
from tests.e2e.faults.harness import Stack

#: Fault, fields of the submit, outcomes of the attempts. Every attempt is one call.
_FAULTS: list[tuple[str, dict[str, Any], list[str]]] = [
    ("500;times=1", {}, ["failed", "succeeded"]),
    ("503", {"max_attempts": 2}, ["failed", "failed"]),
    ("502-html;times=2", {}, ["failed", "failed", "succeeded"]),
    ("reset;times=1", {}, ["unknown", "succeeded"]),
    ("reset", {"on_unknown": "fail"}, ["unknown"]),
    ("reset-midbody;times=1", {}, ["unknown", "succeeded"]),
    ("close-midbody;times=1", {"kind": "image"}, ["unknown", "succeeded"]),
    ("stall;times=1", {"timeout": 2}, ["unknown", "succeeded"]),
    ("stall-midbody", {"timeout": 2, "max_attempts": 1}, ["unknown"]),
    ("drip:60;times=1", {"timeout": 2}, ["unknown", "succeeded"]),
    ("drip:60", {"timeout": 2, "on_unknown": "fail", "kind": "image"}, ["unknown"]),
    ("malformed-json;times=1", {}, ["failed", "succeeded"]),
    ("html-200;times=1", {}, ["failed", "succeeded"]),
    ("empty-200;times=1", {}, ["failed", "succeeded"]),
    ("truncated-picture;times=1", {"kind": "image"}, ["failed", "succeeded"]),
    ("400", {}, ["failed"]),
    ("safety", {}, ["failed"]),
]


@pytest.mark.slow
@pytest.mark.fault(21, "500, reset, drip, stall, garbage and more at once")
def test_everything_goes_wrong(new_stack: NewStack) -> None:
    """With fewer slots than calls that hang: the total deadline holds, slots come free, and others run in them."""
    stack = new_stack(workers=1, WORKER_CONCURRENCY=4, PROVIDER_FAILURES_TO_PAUSE=1000, RETRY_CAP_SECONDS=0.5)
    jobs = []
    for fault, fields, _ in _FAULTS:
        jobs += stack.clients.submit(1, seconds=0.1, sim=f"fault={fault}", **fields)
    others = stack.clients.submit(20, seconds=0.1)
    stack.settle(80)
    for job, (fault, _, outcomes) in zip(jobs, _FAULTS, strict=True):
        assert [each.outcome for each in stack.attempts(job)] == outcomes, fault
    assert stack.outcomes(*others) == {"succeeded": 20}
    [[longest]] = stack.sql(
        "SELECT extract(epoch FROM max(a.finished_at - a.sent_at)) FROM attempts a "
        "JOIN jobs j ON j.id = a.job_id WHERE j.timeout_seconds = 2"
    )
    assert 2 <= longest < 6
    calls = sum(len(outcomes) for _, _, outcomes in _FAULTS) + 20
    stack.verify(calls=calls, remark=f"{len(_FAULTS)} faults; longest call {longest:.1f} s of 2 s")


@pytest.mark.fault(21, "429 with RetryInfo: the whole model waits, and nobody else")
def test_rate_limited(new_stack: NewStack) -> None:
    """Each job is refused once and costs no attempt; none is tried before the provider's time; clients are told why."""
    stack = new_stack(workers=2, WORKER_CONCURRENCY=20)
    jobs = stack.clients.submit(4, seconds=1.0, sim="fault=429-retryinfo:3;times=1", max_attempts=1)
    stack.wait_until(lambda: stack.outcomes(*jobs)["failed"] == 4, 20, "all are refused")
    view = stack.clients.get(jobs[0])
    images = stack.clients.submit(4, kind="image", seconds=0.1)
    stack.mark()
    stack.settle(60)
    assert view is not None
    assert (view["state"], view["waiting_reason"]) == ("queued", "rate_limited")
    assert view["waiting_until"] is not None
    [[soonest]] = stack.sql(
        "SELECT extract(epoch FROM min(b.claimed_at - a.finished_at)) FROM attempts a "
        "JOIN attempts b ON b.job_id = a.job_id AND b.number = a.number + 1"
    )
    assert soonest >= 3
    first_image = "SELECT min(finished_at) FROM jobs WHERE id = ANY(%s::uuid[])"
    [[held_up]] = stack.sql(f"SELECT ({first_image}) > ({first_image})", images, jobs)
    assert not held_up
    facts = stack.verify(calls=12, remark=f"tried again after {soonest:.1f} s at the soonest")
    assert {(job["attempt"], job["snoozes"]) for job in facts.jobs.values() if job["snoozes"]} == {(2, 1)}


@pytest.mark.slow
@pytest.mark.fault(21, "storm within a configured limit")
def test_storm_within_limits(new_stack: NewStack) -> None:
    """With MODEL_LIMITS as the provider has them, no call is refused, and the limit is used.

    A minute scaled down: of 600 a minute, 30 may go out at once and 9.3 a second after that. So any 5 s hold 78 at most,
    and as many more as one second holds, which calls may differ in the time they take on their way.
    """
    stack = new_stack(workers=2, WORKER_CONCURRENCY=40, MODEL_LIMITS="gemini-flash=rpm:600,in_flight:25")
    with _Limits(stack, rpm=87, rate_window=5, concurrency=25):
        stack.wait_until(lambda: stack.sql("SELECT rpm FROM model_gates") == [(600,)], 20, "the gate is set")
        stack.clients.submit(120, seconds=0.3)
        stack.settle(60)
        refused = _refused(stack)
    [[took]] = stack.sql("SELECT extract(epoch FROM max(claimed_at) - min(claimed_at)) FROM attempts")
    assert refused == 0
    assert (120 - 31) / 9.4 <= took < 25
    stack.verify(calls=120, remark=f"none refused; {took:.0f} s, at best 9 s")


@pytest.mark.slow
@pytest.mark.fault(21, "storm, the limit unknown")
def test_storm_with_unknown_limit(new_stack: NewStack) -> None:
    """The provider's 429 says what it allows: those in flight at that moment overshoot, hardly any after them."""
    stack = new_stack(workers=2, WORKER_CONCURRENCY=10)
    with _Limits(stack, rpm=200, rate_window=8):
        stack.clients.submit(230, seconds=0.0)
        stack.wait_until(lambda: _refused(stack) > 0, 30, "the provider refuses calls")
        stack.mark()
        stack.settle(80)
        refused = _refused(stack)
    assert stack.outcomes() == {"succeeded": 230, "failed": refused}
    facts = stack.verify(calls=230 + refused, remark=f"{refused} refused")
    assert refused <= 20 + 5
    assert {job["attempt"] - job["snoozes"] for job in facts.jobs.values()} == {1}


@pytest.mark.slow
@pytest.mark.fault(21, "storm of 1,000 jobs, 800 a minute allowed")
def test_storm_of_a_thousand(new_stack: NewStack) -> None:
    """A real minute of the provider's, whose limit nobody was told: the calls are those allowed, and few to find out.

    No job has an attempt to spare, so one that counted for being refused would fail its job.
    """
    stack = new_stack(workers=2, WORKER_CONCURRENCY=10)
    with _Limits(stack, rpm=800, rate_window=60):
        coming = stack.clients.pour(1000, over=2, seconds=0.0, max_attempts=1)
        stack.wait_until(lambda: _refused(stack) > 0, 60, "the provider refuses calls")
        stack.wait_until(coming.done, 30, "all is submitted")
        stack.wait_until(lambda: _told_to_wait(stack) == stack.unfinished(), 30, "all are told why they wait")
        waiting = stack.unfinished()
        stack.mark()
        stack.settle(120)
        refused = _refused(stack)
    [[took]] = stack.sql("SELECT extract(epoch FROM max(claimed_at) - min(claimed_at)) FROM attempts")
    assert len(coming.result()) == 1000
    assert waiting >= 1000 - 800 - 2 * 10
    # Those in flight when the first was refused; after the pause, one or two to find out.
    assert refused <= 2 * 10 + 5
    facts = stack.verify(
        calls=1000 + refused,
        remark=f"{refused} refused, {waiting} told until when they wait; {took:.0f} s, at best 60 s",
    )
    assert stack.outcomes() == {"succeeded": 1000, "failed": refused}
    assert {job["attempt"] - job["snoozes"] for job in facts.jobs.values()} == {1}


@pytest.mark.slow
@pytest.mark.fault(21, "outage: the circuit breaker")
def test_outage(new_stack: NewStack) -> None:
    """A provider that fails every call is asked now and then, by one call at a time, until it is back."""
    stack = new_stack(
        workers=2, WORKER_CONCURRENCY=10, PROVIDER_PAUSE_SECONDS=0.5, PROVIDER_PAUSE_CAP_SECONDS=2
    )
    with _Limits(stack, fault_rates={"503": 1.0}):
        jobs = stack.clients.submit(60, seconds=0.1, max_attempts=10)
        stack.wait_until(lambda: bool(_paused(stack)), 20, "the model is paused")
        stack.pause(4)
        during = stack.calls()
        view = stack.clients.get(jobs[-1])
    stack.mark()
    stack.settle(60)
    assert view is not None
    assert view["waiting_reason"] in {"provider_unavailable", "retry_backoff"}
    # Two workers, ten slots each, five failures in a row each; then about one probe in each pause.
    assert during <= 2 * (10 + 5) + 8
    assert set(stack.states()) == {"succeeded"}
    failed = stack.outcomes()["failed"]
    assert failed == during
    stack.verify(calls=60 + failed, remark=f"{during} calls in an outage of 4 s, 60 jobs waiting")


class _Limits:
    """The simulator's settings for the time of a block."""

    def __init__(self, stack: Stack, **settings: object) -> None:
        self._url = f"{stack.servers.simulator_url}/sim/config"
        self._settings = settings

    def __enter__(self) -> None:
        self._before = httpx.get(self._url, trust_env=False).json()
        httpx.put(self._url, json=self._settings, trust_env=False).raise_for_status()

    def __exit__(self, *_: object) -> None:
        before = {name: self._before[name] or None for name in self._settings}
        httpx.put(self._url, json=before, trust_env=False).raise_for_status()


def _refused(stack: Stack) -> int:
    counters = httpx.get(f"{stack.servers.simulator_url}/sim/calls?by_job=0", trust_env=False).json()
    return int(counters["by_outcome"].get("rate_limited", 0))


def _told_to_wait(stack: Stack) -> int:
    """Queued jobs that say to their clients that the provider's limit holds them back, and until when."""
    views, cursor = [], ""
    while (page := stack.clients.request("GET", f"/api/v1/jobs?state=queued&limit=200{cursor}")) is not None:
        views += page.json()["items"]
        if page.json()["next_cursor"] is None:
            break
        cursor = f"&cursor={page.json()['next_cursor']}"
    return sum(
        view["waiting_reason"] == "rate_limited" and view["waiting_until"] is not None for view in views
    )


def _paused(stack: Stack) -> list[tuple[Any, ...]]:
    return stack.sql("SELECT model FROM model_gates WHERE paused_until > now()")
