"""Faults 15 and 16: the API is killed in the middle of a submit."""

from __future__ import annotations

import pytest

from tests.e2e.faults.conftest import NewStack
from tests.e2e.faults.harness import Stack


@pytest.mark.fault(15, "API killed between commit and publish")
def test_between_commit_and_publish(new_stack: NewStack) -> None:
    """Nobody was told of these jobs, neither their clients nor a worker; they are stored, so they run."""
    stack = new_stack(workers=2)
    deaths = 3
    for number in range(1, deaths + 1):
        stack.orders.kill("committed")
        stack.clients.submit(20, seconds=0.2)
        stack.mark()
        _await_return(stack, number)
    stack.settle(60)
    stored = sum(stack.states().values())
    silent = stored - len(stack.clients.told)
    assert silent >= deaths
    assert stack.outcomes() == {"succeeded": stored}
    recovery = stack.recovery()
    assert recovery is not None
    assert recovery < 20
    stack.verify(calls=stored, remark=f"{silent} stored without a 202")


@pytest.mark.fault(16, "API killed before the commit, the client tries again")
def test_before_the_commit(new_stack: NewStack) -> None:
    """Nothing is stored, so the client's second try makes the one job.

    The Idempotency-Key that the client sends along has no effect yet. Until it has one, a client whose submit was
    stored and whose 202 was lost (fault 15) cannot know it, and its second try makes a second job. What is proved here
    is the half that holds without it: a submit that dies before its commit leaves nothing behind.
    """
    stack = new_stack(workers=1)
    others = stack.clients.submit(20, seconds=0.3)
    for number in range(1, 4):
        headers = {"Idempotency-Key": f"order-{number}"}
        stack.orders.kill("inserting")
        assert stack.clients.submit_with(headers, seconds=0.1) is None
        stack.mark()
        _await_return(stack, number)
        assert sum(stack.states().values()) == len(others) + number - 1
        assert stack.clients.submit_with(headers, seconds=0.1) is not None
    stack.settle(30)
    assert stack.outcomes() == {"succeeded": 23}
    stack.verify(calls=23)


def _await_return(stack: Stack, deaths: int) -> None:
    stack.wait_until(lambda: stack.restarts["api"] == deaths, 20, "the API has died")
    stack.wait_until(stack.parts["api"].ready, 30, "the API is back")
