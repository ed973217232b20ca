"""Faults 1 to 7: Redis goes, forgets, hangs, or cannot be reached. No job may notice more than a delay."""

from __future__ import annotations

from concurrent.futures import Future

import pytest

from shared.queue import ALL_QUEUES
from tests.e2e.faults.clients import Answer, slowest
from tests.e2e.faults.conftest import NewStack
from tests.e2e.faults.harness import Stack
from worker.hearing import SILENCE_SECONDS


@pytest.mark.fault(1, "Redis SIGKILL and restart with AOF")
def test_killed(new_stack: NewStack) -> None:
    """Three times in one run, with workers half busy, which is when a worker waits in BRPOP."""
    stack = new_stack(workers=2)
    coming = stack.clients.pour(120, over=5, seconds=0.3)
    for _ in range(3):
        stack.pause(stack.random.uniform(0.5, 1.2))
        stack.kill("valkey")
        stack.pause(stack.random.uniform(0, 0.6))
        stack.start("valkey")
        stack.mark()
    stack.verify(calls=_all_run(stack, coming, 120), remark=_restarts(stack))


@pytest.mark.fault(2, "Redis restart without persistence")
def test_forgotten_in_a_restart(new_stack: NewStack) -> None:
    """A backlog of messages is gone; its jobs run all the same."""
    stack = new_stack(workers=1)
    stack.clients.submit(100, seconds=0.3)
    stack.wait_until(lambda: stack.calls() >= 10, 20, "calls are under way")
    stack.kill("valkey")
    stack.parts["valkey"].forget_data()  # type: ignore[attr-defined]
    stack.start("valkey")
    stack.mark()
    stack.settle(60)
    stack.verify(calls=100, remark=_restarts(stack))


@pytest.mark.fault(3, "FLUSHALL under load, three times")
def test_flushed(new_stack: NewStack) -> None:
    stack = new_stack(workers=2)
    coming = stack.clients.pour(120, over=2.5, seconds=0.6)
    lost = 0
    with stack.redis() as redis:
        for _ in range(3):
            stack.pause(stack.random.uniform(0.5, 1.0))
            lost += sum(redis.llen(queue) for queue in ALL_QUEUES)
            redis.flushall()
            stack.mark()
    assert lost > 0, "no message lay in Redis: the fault hit nothing"
    stack.verify(calls=_all_run(stack, coming, 120), remark=f"{lost} messages lost; {_restarts(stack)}")


@pytest.mark.slow
@pytest.mark.fault(4, "Redis down (12 s)")
def test_down(new_stack: NewStack) -> None:
    """Scaled from minutes: all waiting here is in retries of a second or two, without any that give up."""
    stack = new_stack(workers=2)
    first = stack.clients.submit(20, seconds=0.3)
    stack.wait_until(lambda: stack.calls() >= 5, 20, "calls are under way")
    stack.kill("valkey")
    coming = stack.clients.pour(60, over=10, seconds=0.3)
    stack.pause(4)
    waiting = stack.clients.submit(5, seconds=0.3)
    receipts = [stack.clients.cancel(job) for job in waiting[:3]]
    assert [receipt and receipt["outcome"] for receipt in receipts] == ["cancelled"] * 3
    view = stack.clients.get(waiting[4])
    assert view is not None
    assert view["state"] == "queued"
    stack.wait_until(coming.done, 20, "all is submitted")
    stack.pause(max(0.0, 12 - _since(stack, waiting)))
    answers = stack.clients.answers
    stack.start("valkey")
    stack.mark()
    assert [each for each in answers if not 200 <= each.status < 300] == []
    assert slowest(answers) < 3
    assert len(first) + len(coming.result()) + len(waiting) == 85
    stack.settle(60)
    stack.verify(calls=82, remark=f"slowest answer {slowest(answers):.1f} s; {_restarts(stack)}")


@pytest.mark.slow
@pytest.mark.fault(5, "Redis SIGSTOP (13 s)")
def test_frozen(new_stack: NewStack) -> None:
    """Longer than both socket timeouts (5 s) together, so that whoever hangs has come back to hang again."""
    stack = new_stack(workers=2)
    stack.clients.submit(20, seconds=0.3)
    stack.wait_until(lambda: stack.calls() >= 5, 20, "calls are under way")
    stack.freeze("valkey")
    coming = stack.clients.pour(40, over=8, seconds=0.3)
    stack.pause(13)
    stack.thaw("valkey")
    stack.mark()
    bound = slowest(stack.clients.asked())
    assert bound < 5
    stack.verify(calls=20 + _all_run(stack, coming, 40), remark=f"slowest submit {bound:.1f} s")


@pytest.mark.slow
@pytest.mark.fault(6, "black hole between worker and Redis")
def test_black_hole(new_stack: NewStack) -> None:
    """The worker's connections go nowhere and nobody closes them; new ones are well.

    Redis hands a message to the dead connection: that one is swallowed, and its job must run all the same.
    """
    stack = new_stack(workers=1, proxied=["worker:redis"])
    stack.clients.submit(10, seconds=0.1)
    stack.settle(20)
    stack.proxies["worker:redis"].hole("to_client", coming=False)
    stack.clients.submit(30, seconds=0.1)
    stack.mark()
    stack.settle(40)
    recovery = stack.recovery()
    assert recovery is not None
    assert recovery < 30
    stack.verify(calls=40, remark=_restarts(stack))


@pytest.mark.slow
@pytest.mark.fault(6, "black hole for new connections, too (12 s)")
def test_black_hole_for_all(new_stack: NewStack) -> None:
    """Scaled from 60 s: each attempt to connect gives up after 5 s, so this holds two or three of them."""
    stack = new_stack(workers=1, proxied=["worker:redis"])
    stack.clients.submit(10, seconds=0.1)
    stack.settle(20)
    stack.proxies["worker:redis"].hole()
    stack.clients.submit(30, seconds=0.1)
    stack.pause(12)
    stack.proxies["worker:redis"].heal()
    stack.mark()
    stack.settle(40)
    recovery = stack.recovery()
    assert recovery is not None
    assert recovery < 30
    stack.verify(calls=40, remark=_restarts(stack))


@pytest.mark.slow
@pytest.mark.fault(6, "a worker that is deaf")
def test_deaf_worker(new_stack: NewStack) -> None:
    """Its connection trickles: each byte comes before any timeout, and the message that it reads never ends.

    It ends by itself, after the call that it has under way, and is started again; the jobs run then.
    """
    stack = new_stack(workers=1, proxied=["worker:redis"])
    under_way = stack.clients.submit(1, seconds=60.0, timeout=90)
    stack.wait_until(lambda: stack.calls() == 1, 20, "the call is under way")
    stack.proxies["worker:redis"].trickle()
    stack.clients.submit(10, seconds=0.1)
    stack.mark()
    stack.pause(SILENCE_SECONDS + 15)
    assert stack.restarts.total() == 0, "it was given no time to hear again"
    stack.wait_until(lambda: stack.restarts.total() == 1, 60, "it ends, and is started again")
    assert stack.outcomes(*under_way) == {"succeeded": 1}
    stack.settle(30)
    assert stack.restarts.total() == 1
    stack.verify(calls=11, remark=_restarts(stack))


@pytest.mark.fault(7, "CLIENT KILL x 20 during calls")
def test_clients_killed(new_stack: NewStack) -> None:
    stack = new_stack(workers=2)
    coming = stack.clients.pour(80, over=4, seconds=0.5)
    with stack.redis() as redis:
        for _ in range(20):
            stack.pause(stack.random.uniform(0.05, 0.35))
            redis.execute_command("CLIENT", "KILL", "TYPE", "normal")
            stack.mark()
    stack.verify(calls=_all_run(stack, coming, 80), remark=_restarts(stack))


def _all_run(stack: Stack, coming: Future[list[str]], count: int) -> int:
    """Waits until all is submitted and final; every submit must have been accepted, and every job have succeeded."""
    stack.wait_until(coming.done, 30, "all is submitted")
    refused: list[Answer] = [each for each in stack.clients.asked() if each.status != 202]
    assert not refused, refused[:3]
    assert len(coming.result()) == count
    stack.settle(60)
    assert set(stack.states()) == {"succeeded"}, stack.states()
    return count


def _since(stack: Stack, jobs: list[str]) -> float:
    """Seconds since the first of these was accepted."""
    rows = stack.sql(
        "SELECT extract(epoch FROM now() - min(created_at)) FROM jobs WHERE id = ANY(%s::uuid[])", jobs
    )
    return float(rows[0][0])


def _restarts(stack: Stack) -> str:
    died = {name: count for name, count in stack.restarts.items() if count}
    return f"restarted: {died}" if died else "no process died"
