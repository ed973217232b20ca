"""Faults 19, 20, 22 and 23: the same thing twice, from messages, workers and reconcilers; and messages that make no sense."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from threading import Thread
from uuid import uuid4

import psycopg
import pytest
from redis.exceptions import RedisError

from shared.envelope import RUN_JOB
from tests.e2e.faults.conftest import NewStack
from tests.e2e.faults.harness import Stack

_QUEUE = "text.standard"


@pytest.mark.fault(19, "each message 50 times in parallel")
def test_same_message_many_times(new_stack: NewStack) -> None:
    """Both workers stand still while the messages are copied, and then take them all at once."""
    stack = new_stack(workers=2, WORKER_CONCURRENCY=60)
    for name in stack.worker_names:
        stack.freeze(name)
    # One by one: what each frozen worker has already asked for takes one push, and all that comes with it.
    for _ in range(6):
        stack.clients.submit(1, seconds=0.5)
    with stack.redis() as redis:
        messages = redis.lrange(_QUEUE, 0, -1)
        assert messages
        copies = [message for message in messages for _ in range(49)]
        stack.random.shuffle(copies)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda copy: redis.lpush(_QUEUE, copy), copies))
    for name in stack.worker_names:
        stack.thaw(name)
    stack.settle(30)
    stack.wait_until(lambda: _depth(stack) == 0, 30, "every copy is taken")
    assert stack.outcomes() == {"succeeded": 6}
    stack.verify(calls=6, remark=f"{len(copies)} copies")


@pytest.mark.slow
@pytest.mark.fault(20, "a worker frozen past its leases, and thawed")
def test_frozen_during_calls(new_stack: NewStack) -> None:
    """Its answers come when others have already finished: they change nothing."""
    stack = new_stack(workers=2, LEASE_SECONDS=2, LEASE_RENEW_SECONDS=0.5)
    stack.clients.submit(10, seconds=1.0)
    stack.clients.submit(4, kind="image", seconds=1.0)
    stack.wait_until(lambda: stack.calls() >= 12, 20, "calls are under way")
    stack.freeze("worker-1")
    caught = stack.running("worker-1")
    stack.mark()
    stack.settle(60)
    assert caught
    assert stack.outcomes() == {"succeeded": 14, "unknown": caught}
    _thaw_and_see_nothing_change(stack, "worker-1")
    stack.verify(calls=(14, 14 + caught), remark=f"{caught} in flight")


@pytest.mark.fault(20, "a worker frozen between claim and call, and thawed")
def test_frozen_before_the_call(new_stack: NewStack) -> None:
    """Thawed, it must find out that the job is no longer its own before it pays for a call.

    It stops wherever else it is, too: sometimes in the middle of claiming others, whose rows it keeps locked until
    PostgreSQL ends its transaction after 5 s.
    """
    stack = new_stack(workers=2, LEASE_SECONDS=2, LEASE_RENEW_SECONDS=0.5)
    stack.orders.stop("claimed", count=1)
    stack.clients.submit(8, seconds=0.2)
    stack.wait_until(lambda: bool(stack.orders.taken("claimed")), 20, "a worker has stopped itself")
    [job] = stack.orders.taken("claimed")
    [attempt] = stack.attempts(job)
    name = attempt.worker.partition("@")[0]
    stack.mark()
    stack.settle(60)
    # Its claim was the note that it calls: nobody could know better.
    assert [each.outcome for each in stack.attempts(job)] == ["unknown", "succeeded"]
    before = stack.calls()
    stack.freeze(name)
    _thaw_and_see_nothing_change(stack, name)
    assert stack.calls(job) == 1
    assert stack.calls() == before
    stack.verify(calls=(8, 7 + stack.outcomes()["unknown"]))


@pytest.mark.fault(22, "messages that make no sense")
def test_garbage_in_the_queue(new_stack: NewStack) -> None:
    """Whatever lies in a queue, the jobs whose calls are under way keep them, and others run."""
    stack = new_stack(workers=2)
    with stack.redis() as redis:
        stack.clients.submit(10, seconds=2.0)
        stack.wait_until(lambda: stack.calls() == 10, 20, "calls are under way")
        garbage = _garbage()
        stack.random.shuffle(garbage)
        for number, message in enumerate(garbage):
            stack.clients.submit(2, seconds=0.2)
            redis.lpush(stack.random.choice([_QUEUE, "image.standard"]), message)
            stack.pause(0.1 if number % 2 else 0.5)
        stack.mark()
        stack.clients.submit(10, seconds=0.2)
        stack.settle(60)
        stack.wait_until(lambda: _depth(stack) == 0, 30, "the queues are empty")
    jobs = 20 + 2 * len(garbage)
    assert stack.outcomes() == {"succeeded": jobs}
    stack.verify(calls=jobs, remark=f"{len(garbage)} sorts; worker deaths: {stack.restarts.total()}")


@pytest.mark.slow
@pytest.mark.fault(23, "two beats on a backlog whose messages are lost")
def test_two_reconcilers(new_stack: NewStack) -> None:
    """A healthy backlog is left alone; what is lost is sent again about once, whoever is faster."""
    stack = new_stack(workers=1, beats=2, WORKER_CONCURRENCY=8, LEASE_SECONDS=3)
    with _counted(stack) as sent, stack.redis() as redis:
        stack.clients.submit(120, seconds=0.4)
        stack.wait_until(lambda: sent() >= 120, 5, "all are sent")
        stack.pause(2.8)
        assert stack.unfinished() > 30, "the backlog is older than REPUBLISH_AFTER_SECONDS"
        healthy = sent() - 120
        # One that a worker takes between the look at PostgreSQL and the look at Redis counts as missing.
        assert healthy <= 16, "the messages are there: they are not sent again"
        redis.flushall()
        lost = stack.states()["queued"]
        stack.kill("worker-1")
        stack.mark()
        stack.settle(60)
        again = sent() - 120 - healthy
    unknown = stack.outcomes()["unknown"]
    assert unknown <= 8
    assert [each.number for each in stack.attempts() if each.number > 2] == []
    # What was rescued is sent as well; a message that a worker has just taken may count as missing.
    assert lost <= again <= lost + 3 * 8
    stack.verify(calls=(120, 120 + unknown), remark=f"{lost} lost, {again} sent again")


@pytest.mark.slow
@pytest.mark.fault(23, "one of two beats stands still, holding locks")
def test_stopped_reconciler(new_stack: NewStack) -> None:
    """A process that stops in the middle of a transaction keeps its row locks: nobody else may wait for those."""
    stack = new_stack(workers=2, beats=2, LEASE_SECONDS=3, DATABASE_STATEMENT_TIMEOUT=5)
    stack.freeze("beat-1")
    for name in stack.worker_names:
        stack.freeze(name)
    jobs = stack.clients.submit(30, seconds=0.2)
    with psycopg.connect(stack.database_url) as db:
        # As beat-1 would, had it been stopped between taking these and its commit.
        db.execute("UPDATE jobs SET published_at = now() WHERE id = ANY(%s::uuid[])", [jobs[:3]])
        for name in stack.worker_names:
            stack.thaw(name)
        stack.mark()
        stack.wait_until(lambda: stack.finished() == 27, 20, "all others are done")
        assert stack.unfinished() == 3
    stack.thaw("beat-1")
    stack.settle(30)
    assert stack.outcomes() == {"succeeded": 30}
    recovery = stack.recovery()
    stack.verify(calls=30, remark="" if recovery is None else f"others within {recovery:.1f} s")


def _thaw_and_see_nothing_change(stack: Stack, name: str) -> None:
    query = "SELECT id, version, state, attempt, cost_usd, finished_at, result, error FROM jobs ORDER BY id"
    attempts = "SELECT job_id, number, outcome, cost_usd, finished_at FROM attempts ORDER BY job_id, number"
    before = stack.sql(query), stack.sql(attempts), stack.sql("SELECT id FROM artifacts ORDER BY id")
    stack.thaw(name)
    # It answers for itself again once it has looked at all that happened meanwhile.
    seen = (
        "SELECT heartbeat_at > now() - interval '1 second' AND in_flight = 0 FROM workers WHERE name LIKE %s"
    )
    stack.wait_until(
        lambda: stack.sql(seen, f"{name}%") == [(True,)], 20, f"{name} has nothing left in flight"
    )
    assert stack.restarts.total() == 0
    after = stack.sql(query), stack.sql(attempts), stack.sql("SELECT id FROM artifacts ORDER BY id")
    assert after == before


def _depth(stack: Stack) -> int:
    with stack.redis() as redis:
        return sum(int(redis.llen(queue)) for queue in (_QUEUE, "image.standard"))


@contextmanager
def _counted(stack: Stack) -> Iterator[Callable[[], int]]:
    """Counts the messages that are put into queues from now on: many go in one command."""
    total = 0
    with stack.redis() as redis, redis.monitor() as monitor:

        def listen() -> None:
            nonlocal total
            with suppress(RedisError, OSError, ValueError):
                for seen in monitor.listen():
                    if seen["command"].startswith("LPUSH"):
                        total += seen["command"].count("correlation_id")

        Thread(target=listen, daemon=True).start()
        yield lambda: total


def _garbage() -> list[bytes]:
    whole = _envelope([str(uuid4())])
    wrong = [
        _envelope(["not-an-id"]),
        _envelope([]),
        _envelope([str(uuid4()), "too", "many"]),
        _envelope([{"a": "thing"}]),
        _envelope([str(uuid4())], task="plantain.jobs.of_a_later_version"),
        {**whole, "body": "%%% no base64"},
        {**whole, "body": b64encode(b"{{{ no JSON").decode()},
        {**whole, "content-type": "application/x-python-serialize"},
        {**whole, "headers": {}},
        {**whole, "properties": {}},
        {"body": "", "and": "nothing else"},
    ]
    bare = [b"", b"no JSON {", b"\xff\xfe\x00", b"{}", b"[]", b"null", b"17"]
    return [json.dumps(message).encode() for message in [whole, *wrong]] + bare


def _envelope(arguments: list[object], task: str = RUN_JOB) -> dict[str, object]:
    """A message as Celery writes it."""
    name = str(uuid4())
    options = dict.fromkeys(("callbacks", "errbacks", "chain", "chord"))
    return {
        "body": b64encode(json.dumps([arguments, {}, options]).encode()).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"lang": "py", "task": task, "id": name, "root_id": name, "parent_id": None, "retries": 0},
        "properties": {
            "correlation_id": name,
            "delivery_mode": 2,
            "delivery_info": {"exchange": _QUEUE, "routing_key": _QUEUE},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": str(uuid4()),
        },
    }
