"""Faults 8 to 12: a worker is killed, at every point of a job's way."""

from __future__ import annotations

import pytest

from tests.e2e.faults.conftest import NewStack


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
    unknown = stack.outcomes()["unknown"]
    assert 1 <= unknown <= 10
    assert len(stack.attempts()) == 40 + stack.outcomes()["lost"] + unknown
    # One that was noted as sent and not yet on its way is unknown as well.
    stack.verify(calls=(40, 40 + unknown))
