"""Fault 14: a worker that is told to stop and does not make it in time."""

from __future__ import annotations

import time

import pytest

from tests.e2e.faults.conftest import NewStack


@pytest.mark.fault(14, "SIGTERM, then SIGKILL at the end of the grace period")
def test_killed_at_the_end_of_its_grace(new_stack: NewStack) -> None:
    """What ends within the grace period is kept; what does not is rescued as if the worker had died: once more, no more."""
    stack = new_stack(workers=2, LEASE_SECONDS=3, LEASE_RENEW_SECONDS=0.5)
    short = stack.clients.submit(8, seconds=1.0)
    long = stack.clients.submit(12, seconds=4)
    stack.wait_until(lambda: stack.calls() == 20, 20, "all calls are under way")
    stack.terminate("worker-1")
    told_at = time.time()
    coming = stack.clients.submit(20, seconds=0.1)
    stack.wait_until(
        lambda: stack.outcomes(*short)["succeeded"] == 8, 20, "the short calls end in the grace period"
    )
    assert stack.parts["worker-1"].alive
    caught = stack.running("worker-1")
    assert caught
    stack.kill("worker-1", restart=False)
    stack.mark()
    stack.settle(60)
    assert stack.outcomes(*short) == {"succeeded": 8}
    assert stack.outcomes(*long) == {"succeeded": 12, "unknown": caught}
    assert stack.outcomes(*coming) == {"succeeded": 20}
    # A message may just have been taken when the signal came.
    late = "SELECT count(*) FROM attempts WHERE worker LIKE 'worker-1%%' AND claimed_at > to_timestamp(%s)"
    assert stack.sql(late, told_at + 1) == [(0,)]
    stack.verify(calls=40 + caught, remark=f"{caught} in flight at the end")
