"""Fault 25: cancels that race with everything else a job meets."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.e2e.faults.conftest import NewStack
from tests.e2e.faults.harness import Stack

Receipts = dict[str, dict[str, Any]]


@pytest.mark.fault(25, "cancel before the claim, before the call, during it, racing the record")
def test_cancel_at_every_moment(new_stack: NewStack) -> None:
    """Whatever a cancel meets, its job ends once, and its receipt is true."""
    stack = new_stack(workers=2, WORKER_CONCURRENCY=20)
    with stack.orders.hold("claimed", count=8) as held:
        # With this policy a claim is not yet the note that the provider is called.
        stack.clients.submit(8, seconds=0.1, on_unknown="fail")
        stack.wait_until(lambda: len(held()) == 8, 20, "eight are claimed and not sent")
        unsent = held()
        receipts = _cancel(stack, unsent)
    during = stack.clients.submit(12, seconds=20)
    stack.wait_until(lambda: stack.calls(*during) == 12, 20, "twelve calls are under way")
    receipts |= _cancel(stack, during)
    stack.wait_until(lambda: stack.running() == 0, 10, "the calls are aborted")
    slow = _seconds_to_end(stack, during)
    racing = stack.clients.submit(140, seconds=0.4)
    stack.random.shuffle(racing)
    with ThreadPoolExecutor(8) as pool:
        for more in pool.map(lambda job: _cancel_some_time(stack, job), racing):
            receipts |= more
    stack.settle(40)
    facts = stack.verify(calls=(12, 152), remark=f"aborted within {slow:.1f} s; {_count(receipts)}")
    assert slow < 3
    assert stack.calls(*unsent) == 0
    assert {facts.jobs[job]["state"] for job in [*unsent, *during]} == {"cancelled"}
    assert len(receipts) == 160
    for job, receipt in receipts.items():
        state, called = facts.jobs[job]["state"], job in facts.calls
        if receipt["outcome"] == "cancelled":
            assert state == "cancelled"
            assert called is receipt["provider_called"] is False
        elif receipt["outcome"] == "already_final":
            assert state == receipt["job"]["state"] == "succeeded"
        else:
            assert state in {"cancelled", "succeeded"}
            assert called or not receipt["provider_called"]
        if state == "cancelled" and called:
            assert facts.jobs[job]["cost_usd"] > 0, "what may have been billed is counted"


@pytest.mark.fault(25, "cancel while Redis is away, and while its worker dies")
def test_cancel_in_trouble(new_stack: NewStack) -> None:
    """Without the wake-up a worker learns of it at its next renewal; where there is no worker, the rescue ends the job."""
    stack = new_stack(workers=2, LEASE_SECONDS=3)
    jobs = stack.clients.submit(20, seconds=15)
    stack.wait_until(lambda: stack.calls() == 20, 20, "all calls are under way")
    stack.kill("valkey")
    half = jobs[:10]
    receipts = _cancel(stack, half)
    stack.wait_until(lambda: stack.running() == 10, 20, "they are aborted at a renewal")
    slow = _seconds_to_end(stack, half)
    stack.start("valkey")
    stack.freeze("worker-1")
    receipts |= _cancel(stack, jobs[10:])
    stack.kill("worker-1")
    stack.mark()
    stack.settle(40)
    assert {receipt["outcome"] for receipt in receipts.values()} == {"cancel_requested"}
    assert all(receipt["provider_called"] for receipt in receipts.values())
    assert slow < 5
    assert stack.states() == {"cancelled": 20}
    assert stack.outcomes() == {"cancelled": 20}
    stack.verify(calls=20, remark=f"without Redis aborted within {slow:.1f} s")


def _cancel(stack: Stack, jobs: list[str]) -> Receipts:
    receipts = {job: stack.clients.cancel(job) for job in jobs}
    missing = [job for job, receipt in receipts.items() if receipt is None]
    assert not missing, "every cancel is answered"
    return {job: receipt for job, receipt in receipts.items() if receipt is not None}


def _cancel_some_time(stack: Stack, job: str) -> Receipts:
    """At a random moment: of a tenth of them, twice."""
    time.sleep(stack.random.uniform(0, 0.2))
    first = _cancel(stack, [job])
    if stack.random.random() < 0.1:
        again = _cancel(stack, [job])[job]
        assert again["outcome"] != "cancelled" or again["job"]["state"] == "cancelled"
    return first


def _seconds_to_end(stack: Stack, jobs: list[str]) -> float:
    """From the request to the end, the slowest."""
    query = "SELECT extract(epoch FROM max(finished_at - cancel_requested_at)) FROM jobs WHERE id = ANY(%s::uuid[])"
    return float(stack.sql(query, jobs)[0][0])


def _count(receipts: Receipts) -> str:
    outcomes = [receipt["outcome"] for receipt in receipts.values()]
    return ", ".join(f"{outcomes.count(name)} {name}" for name in sorted(set(outcomes)))
