"""Fault 13: deploys. A worker that is told to stop ends what it has, gives back what it has not begun, and loses nothing."""

from __future__ import annotations

import pytest

from tests.e2e.faults.clients import slowest
from tests.e2e.faults.conftest import NewStack
from tests.e2e.faults.harness import Stack

_LONGEST_CALL = 0.8


@pytest.mark.fault(13, "SIGTERM with jobs popped and claimed, not sent")
def test_what_is_not_sent_is_given_back(new_stack: NewStack) -> None:
    """Another worker has them within a second or two: neither the reconciler nor the lease is waited for."""
    stack = new_stack(workers=2, REPUBLISH_AFTER_SECONDS=60, LEASE_SECONDS=30)
    with (
        stack.orders.hold("popped", count=6) as popped,
        stack.orders.hold("claimed", count=6) as claimed,
    ):
        stack.clients.submit(40, seconds=0.3)
        stack.wait_until(lambda: len(popped() + claimed()) == 12, 20, "they are held")
        held = [*popped(), *claimed()]
        stack.terminate("worker-1")
        stack.pause(0.3)
        stack.mark()
    stack.wait_until(lambda: not stack.parts["worker-1"].alive, _LONGEST_CALL + 5, "the worker exits")
    stack.settle(15)
    given_back = [each for each in stack.attempts(*held) if each.outcome == "lost"]
    assert all(not each.counted and each.worker.startswith("worker-1") for each in given_back)
    recovery = stack.recovery()
    assert recovery is None or recovery < 5
    stack.verify(calls=40, remark=f"{len(given_back)} given back after the claim")


@pytest.mark.slow
@pytest.mark.fault(13, "SIGTERM rolling restart x 8 under load")
def test_rolling_restart(new_stack: NewStack) -> None:
    # A message that a worker takes along would be missed for so long that it shows.
    stack = new_stack(workers=2, WORKER_CONCURRENCY=20, REPUBLISH_AFTER_SECONDS=20)
    coming = stack.clients.pour(150, over=30, seconds=_LONGEST_CALL)
    exits: list[float] = []
    for number in range(8):
        stack.pause(stack.random.uniform(0, 0.8))
        name = stack.worker_names[number % 2]
        stack.mark()
        exits.append(stack.restart(name))
        assert stack.parts[name].exit_code in {None, 0}
        stack.wait_until(stack.parts[name].ready, 20, f"{name} is back")
    stack.wait_until(coming.done, 30, "all is submitted")
    assert len(coming.result()) == 150
    assert slowest(stack.clients.asked()) < 3
    stack.settle(60)
    assert max(exits) < _LONGEST_CALL + 5
    assert stack.restarts.total() == 0
    # Lost is what was claimed and given back unsent; it counts as no attempt.
    given_back = [each for each in stack.attempts() if each.outcome != "succeeded"]
    assert all(each.outcome == "lost" and not each.counted for each in given_back)
    stack.verify(
        calls=150,
        remark=f"slowest exit {max(exits):.1f} s; longest wait for a claim {_longest_wait(stack):.1f} s",
    )


def _longest_wait(stack: Stack) -> float:
    """Seconds from a submit to its first claim; what a restart costs a client."""
    query = "SELECT extract(epoch FROM max(a.claimed_at - j.created_at)) FROM attempts a JOIN jobs j ON j.id = a.job_id"
    return float(stack.sql(query)[0][0])
