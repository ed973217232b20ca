"""Faults 8 to 12: a worker is killed, at every point of a job's way."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from tests.e2e.faults.conftest import NewStack
from tests.e2e.faults.harness import Stack


@pytest.mark.fault(8, "worker group killed during calls")
def test_during_calls(new_stack: NewStack) -> None:
    """Those in flight are rescued after the lease, as unknown, with exactly one more attempt each."""
    stack = new_stack(workers=2, LEASE_SECONDS=3)
    stack.clients.submit(40, seconds=1.0)
    stack.wait_until(lambda: stack.calls() >= 15, 20, "calls are under way")
    stack.pause(stack.random.uniform(0, 0.5))
    stack.kill("worker-1")
    stack.mark()
    stack.settle(60)
    outcomes = stack.outcomes()
    assert 1 <= outcomes["unknown"] <= 10
    assert outcomes["succeeded"] == 40
    assert outcomes.total() == 40 + outcomes["unknown"] + outcomes["lost"]
    # One that was noted as sent and not yet on its way is unknown as well.
    stack.verify(calls=(40, 40 + outcomes["unknown"]), remark=f"{outcomes['unknown']} in flight")


@pytest.mark.fault(9, "killed between pop and claim")
def test_between_pop_and_claim(new_stack: NewStack) -> None:
    """Redis has given the message away, PostgreSQL knows nothing of it: the reconciler rings again."""
    # Not so soon that the reconciler rings while they are being held.
    stack = new_stack(workers=1, REPUBLISH_AFTER_SECONDS=5)
    stack.clients.submit(20, seconds=0.2)
    stack.settle(20)
    with stack.orders.hold("popped", count=8) as held:
        lost = stack.clients.submit(8, seconds=0.2)
        stack.wait_until(lambda: len(held()) == 8, 20, "they are popped")
        stack.kill("worker-1")
        stack.mark()
    stack.clients.submit(12, seconds=0.2)
    stack.settle(30)
    assert [each.number for each in stack.attempts(*lost)] == [1] * 8
    stack.verify(calls=40)


@pytest.mark.fault(10, "killed after the claim, before the call")
def test_before_the_call(new_stack: NewStack) -> None:
    """With a strict policy it is known that no call went out; else the claim counts as one, and is paid for as one."""
    stack = new_stack(workers=1, LEASE_SECONDS=3, WORKER_CONCURRENCY=20)
    with stack.orders.hold("claimed", count=20) as held:
        strict = stack.clients.submit(10, seconds=0.2, on_unknown="fail")
        usual = stack.clients.submit(10, seconds=0.2, on_unknown="retry")
        stack.wait_until(lambda: len(held()) == 20, 20, "all are claimed")
        stack.kill("worker-1")
        stack.mark()
    stack.settle(30)
    assert stack.outcomes(*strict) == {"lost": 10, "succeeded": 10}
    assert stack.outcomes(*usual) == {"unknown": 10, "succeeded": 10}
    stack.verify(calls=20)


@pytest.mark.fault(10, "killed after the answer, before the record")
def test_before_the_record(new_stack: NewStack) -> None:
    """The call is paid for and its answer gone: on_unknown decides, and the attempt says so."""
    stack = new_stack(workers=1, LEASE_SECONDS=3, WORKER_CONCURRENCY=20)
    with stack.orders.hold("answered", count=20) as held:
        retried = stack.clients.submit(10, seconds=0.2, on_unknown="retry")
        failed = stack.clients.submit(10, seconds=0.2, on_unknown="fail")
        stack.wait_until(lambda: len(held()) == 20, 20, "all are answered")
        stack.kill("worker-1")
        stack.mark()
    stack.settle(30)
    assert stack.outcomes(*retried) == {"unknown": 10, "succeeded": 10}
    assert stack.outcomes(*failed) == {"unknown": 10}
    facts = stack.verify(calls=30)
    assert {facts.jobs[job]["state"] for job in failed} == {"failed"}
    assert {facts.jobs[job]["error"]["code"] for job in failed} == {"worker_lost"}
    assert stack.calls(*failed) == 10


@pytest.mark.fault(10, "killed after the record")
def test_after_the_record(new_stack: NewStack) -> None:
    """What was recorded is not done again, though nobody was told that its message is done with."""
    stack = new_stack(workers=1, WORKER_CONCURRENCY=20)
    with stack.orders.hold("recorded", count=20) as held:
        stack.clients.submit(40, seconds=0.2)
        stack.wait_until(lambda: len(held()) == 20, 20, "a full worker has recorded all that it had")
        stack.kill("worker-1")
        stack.mark()
    stack.settle(30)
    assert stack.outcomes() == {"succeeded": 40}
    stack.verify(calls=40)


@pytest.mark.fault(11, "killed after artifacts are written")
def test_before_artifacts_are_committed(new_stack: NewStack) -> None:
    # Each of the five holds a connection, and some are kept from pictures.
    stack = new_stack(workers=1, LEASE_SECONDS=3, DATABASE_POOL_SIZE=14)
    with stack.orders.hold("artifacts", count=5) as held:
        stack.clients.submit(5, kind="image", seconds=0.2)
        stack.wait_until(lambda: len(held()) == 5, 30, "all pictures are written")
        stack.kill("worker-1")
        stack.mark()
    stack.settle(30)
    assert stack.outcomes() == {"unknown": 5, "succeeded": 5}
    facts = stack.verify(calls=10)
    assert sum(len(artifacts) for artifacts in facts.artifacts.values()) == 5


@pytest.mark.slow
@pytest.mark.fault(12, "two jobs whose worker dies every time")
def test_poison(new_stack: NewStack) -> None:
    """One kills its worker before the call, one after it; both end at max_attempts, and the others go on."""
    stack = new_stack(workers=2, LEASE_SECONDS=2, LEASE_RENEW_SECONDS=0.5)
    before = _poison(stack, "claimed", on_unknown="fail")
    after = _poison(stack, "answered")
    others = stack.clients.submit(60, seconds=0.3, max_attempts=20)
    stack.settle(90)
    assert stack.outcomes(before) == {"lost": 3}
    # The other one may have killed its worker before it came to its call.
    called = stack.outcomes(after)["unknown"]
    assert stack.outcomes(after) == Counter(unknown=called, lost=3 - called)
    assert stack.restarts.total() >= 3
    again = stack.outcomes(*others)["unknown"]
    facts = stack.verify(
        calls=(60, 60 + again + called),
        remark=f"{stack.restarts.total()} deaths, {again} others in flight",
        recovery=stack.longest_gap(),
    )
    assert {facts.jobs[job]["state"] for job in others} == {"succeeded"}
    assert {facts.jobs[job]["state"] for job in (before, after)} == {"failed"}
    assert stack.calls(before) == 0


def _poison(stack: Stack, point: str, on_unknown: str = "retry") -> str:
    """A job that kills its worker whenever it comes to the point. It begins late enough for the order to be there."""
    soon = (datetime.now(UTC) + timedelta(seconds=1)).isoformat()
    [job] = stack.clients.submit(1, seconds=0.2, max_attempts=3, scheduled_at=soon, on_unknown=on_unknown)
    stack.orders.kill(point, job, always=True)
    return job
