"""Faults 15 and 16: the API is killed in the middle of a submit."""

from __future__ import annotations

import psycopg
import pytest

from shared.queue import AHEAD_SECONDS
from tests.e2e.faults.conftest import NewStack
from tests.e2e.faults.harness import Stack

#: And shorter than ``lock_timeout``.
_LONGER_THAN_WORKERS_WAIT = AHEAD_SECONDS + 0.3


@pytest.mark.fault(15, "API killed between commit and publish")
def test_between_commit_and_publish(new_stack: NewStack) -> None:
    """Nobody was told of these jobs, neither their clients nor a worker; they are stored, so they run."""
    stack = new_stack(workers=2)
    deaths = 3
    for number in range(1, deaths + 1):
        stack.clients.submit(20, seconds=0.2)
        stack.orders.kill("committed")
        # Under a key, a job's message is sent after its commit; without one, often while it is stored: see below.
        assert stack.clients.submit_with({"Idempotency-Key": f"order-{number}"}, number=number) is None
        stack.mark()
        _await_return(stack, number)
    stack.settle(60)
    stored = sum(stack.states().values())
    assert stored - len(stack.clients.told) == deaths
    assert stack.outcomes() == {"succeeded": stored}
    recovery = stack.recovery()
    assert recovery is not None
    assert 1 < recovery < 20
    stack.verify(calls=stored, remark=f"{deaths} stored without a 202")


@pytest.mark.fault(15, "API killed between publish and commit")
def test_between_publish_and_commit(new_stack: NewStack) -> None:
    """A lone job's message is sent while it is stored. Where that takes longer than workers wait, they have missed it."""
    stack = new_stack(workers=2)
    others = stack.clients.submit(20, seconds=0.2)
    stack.settle(30)
    with psycopg.connect(stack.database_url) as slow:
        slow.execute("LOCK TABLE job_labels IN SHARE MODE")
        submitting = stack.clients.pour(1, over=0, seconds=0.2)
        stack.pause(0.3)
        stack.kill("api")
        # The lock of ours is what the statement waits for; it goes on when it gets it, though nobody hears of it.
        stack.pause(_LONGER_THAN_WORKERS_WAIT)
        assert sum(stack.states().values()) == len(others)
        with stack.redis() as redis:
            assert redis.llen("text.standard") == 0, "a worker took the message, and waits no more"
    stack.mark()
    assert submitting.result() == []
    _await_return(stack, 1)
    stack.settle(30)
    assert stack.outcomes() == {"succeeded": len(others) + 1}
    recovery = stack.recovery()
    assert recovery is not None
    assert recovery < 20
    stack.verify(calls=len(others) + 1, remark="1 stored without a 202")


@pytest.mark.fault(16, "API killed before the commit, the client tries again")
def test_before_the_commit(new_stack: NewStack) -> None:
    """Nothing is stored, neither job nor key, so the client's second try makes the one job."""
    stack = new_stack(workers=1)
    others = stack.clients.submit(20, seconds=0.3)
    for number in range(1, 4):
        headers = {"Idempotency-Key": f"order-{number}"}
        stack.orders.kill("inserted")
        assert stack.clients.submit_with(headers, number=number, seconds=0.1) is None
        stack.mark()
        _await_return(stack, number)
        assert sum(stack.states().values()) == len(others) + number - 1
        job = stack.clients.submit_with(headers, number=number, seconds=0.1)
        assert job is not None
        assert not _last_is_replayed(stack)
        assert stack.clients.submit_with(headers, number=number, seconds=0.1) == job
        assert _last_is_replayed(stack)
    stack.settle(30)
    assert stack.outcomes() == {"succeeded": 23}
    stack.verify(calls=23)


@pytest.mark.fault(16, "API killed between commit and answer, the client tries again")
def test_between_commit_and_answer(new_stack: NewStack) -> None:
    """The job is stored and its 202 never came; with its key the second try gets that 202, and no second job."""
    stack = new_stack(workers=1)
    others = stack.clients.submit(20, seconds=0.3)
    jobs = set()
    for number in range(1, 4):
        headers = {"Idempotency-Key": f"order-{number}"}
        stack.orders.kill("committed")
        assert stack.clients.submit_with(headers, number=number, seconds=0.1) is None
        stack.mark()
        _await_return(stack, number)
        assert sum(stack.states().values()) == len(others) + number
        for _ in range(2):
            jobs.add(stack.clients.submit_with(headers, number=number, seconds=0.1))
            assert _last_is_replayed(stack)
    assert len(jobs) == 3
    assert None not in jobs
    stack.settle(30)
    assert stack.outcomes() == {"succeeded": 23}
    stack.verify(calls=23)


def _last_is_replayed(stack: Stack) -> bool:
    last = stack.clients.asked()[-1]
    assert last.status == 202
    return bool(last.headers.get("Idempotent-Replayed") == "true")


def _await_return(stack: Stack, deaths: int) -> None:
    stack.wait_until(lambda: stack.restarts["api"] == deaths, 20, "the API has died")
    stack.wait_until(stack.parts["api"].ready, 30, "the API is back")
