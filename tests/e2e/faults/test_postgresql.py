"""Faults 17 and 18: PostgreSQL goes away, loses its connections, or has none to give."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import Future

import psycopg
import pytest

from tests.e2e.faults.clients import Answer, slowest
from tests.e2e.faults.conftest import NewStack
from tests.e2e.faults.harness import Stack


@pytest.mark.slow
@pytest.mark.fault(17, "PostgreSQL killed and restarted during calls")
def test_restart_during_calls(new_stack: NewStack) -> None:
    """Away for longer than a lease. The answers that come meanwhile are held and stored; nothing is called again."""
    stack = new_stack(workers=2, LEASE_SECONDS=3, WORKER_CONCURRENCY=20)
    stack.clients.submit(24, seconds=2.0)
    stack.clients.submit(6, kind="image", seconds=2.0)
    stack.wait_until(lambda: stack.calls() == 30, 20, "all calls are under way")
    coming = stack.clients.pour(30, over=6, seconds=0.2)
    stack.pause(stack.random.uniform(0, 0.5))
    stack.kill("postgres")
    stack.pause(4)
    stack.start("postgres")
    stack.mark()
    accepted, refused = _poured(stack, coming)
    stack.settle(60)
    assert refused
    assert set(stack.states()) == {"succeeded"}
    stack.verify(calls=_stored(stack, 30 + accepted, refused), remark=_said(stack))


@pytest.mark.fault(18, "pg_terminate_backend on all connections x 10")
def test_connections_terminated(new_stack: NewStack) -> None:
    stack = new_stack(workers=2)
    coming = stack.clients.pour(70, over=5, seconds=0.5)
    images = stack.clients.pour(10, over=5, kind="image", seconds=0.5)
    ended = 0
    for _ in range(10):
        stack.pause(stack.random.uniform(0.1, 0.6))
        ended += _terminate(stack)
        stack.mark()
    accepted, refused = map(sum, zip(_poured(stack, coming), _poured(stack, images), strict=True))
    stack.settle(60)
    assert set(stack.states()) == {"succeeded"}
    stack.verify(calls=_stored(stack, accepted, refused), remark=f"{ended} connections ended; {_said(stack)}")


@pytest.mark.fault(18, "no connection to be had for 4 s")
def test_no_connections(new_stack: NewStack) -> None:
    """The server runs and lets nobody in: what a process says whose pool and whose server are used up."""
    stack = new_stack(workers=2)
    stack.clients.submit(20, seconds=1.0)
    stack.wait_until(lambda: stack.calls() >= 10, 20, "calls are under way")
    _let_in(stack, allowed=False)
    _terminate(stack)
    coming = stack.clients.pour(30, over=3, seconds=0.2)
    stack.pause(4)
    _let_in(stack, allowed=True)
    stack.mark()
    accepted, refused = _poured(stack, coming)
    assert refused
    assert stack.clients.submit(10, seconds=0.1)
    stack.settle(60)
    stack.verify(calls=_stored(stack, 30 + accepted, refused), remark=_said(stack))


@pytest.mark.fault(18, "the pool exhausted behind a table lock")
def test_pool_exhausted(new_stack: NewStack) -> None:
    """Every statement waits, until each process has no connection left; longer than a lease, and yet no second call."""
    stack = new_stack(
        workers=2,
        DATABASE_POOL_SIZE=4,
        DATABASE_CONNECT_TIMEOUT=2,
        DATABASE_STATEMENT_TIMEOUT=2,
        LEASE_SECONDS=3,
    )
    stack.clients.submit(20, seconds=2.0)
    stack.wait_until(lambda: stack.calls() == 20, 20, "all calls are under way")
    with psycopg.connect(stack.database_url) as db:
        db.execute("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE")
        coming = stack.clients.pour(40, over=3, seconds=0.2)
        stack.pause(5)
    stack.mark()
    accepted, refused = _poured(stack, coming)
    assert refused
    stack.settle(60)
    assert set(stack.states()) == {"succeeded"}
    stack.verify(calls=_stored(stack, 20 + accepted, refused), remark=_said(stack))


@pytest.mark.slow
@pytest.mark.fault(18, "black hole between worker and PostgreSQL")
def test_black_hole(new_stack: NewStack) -> None:
    """Its connections swallow everything and nobody closes them; new ones are well. The driver would wait for ever."""
    stack = new_stack(workers=1, proxied=["worker:postgres"])
    stack.clients.submit(10, seconds=0.1)
    stack.settle(20)
    stack.proxies["worker:postgres"].hole(coming=False)
    stack.clients.submit(10, seconds=0.1)
    stack.mark()
    stack.wait_until(lambda: stack.restarts.total() == 1, 90, "the worker ends, and is started again")
    stack.settle(30)
    assert stack.restarts == {"worker-1": 1}
    # A claim, or a note, whose answer was swallowed is a lost attempt; none of them called.
    assert stack.outcomes()["unknown"] == 0
    stack.verify(calls=20)


def _poured(stack: Stack, coming: Future[list[str]]) -> tuple[int, int]:
    """Waits for the submits: how many were accepted, how many not. See that no answer was wrong, late or missing."""
    stack.wait_until(coming.done, 60, "all is submitted")
    answers = list(stack.clients.answers)
    allowed = {200, 202, 503}
    assert not [each for each in answers if each.status not in allowed], Counter(
        (each.status, each.error) for each in answers
    )
    for answer in answers:
        if answer.status == 503:
            assert answer.headers["content-type"].startswith("application/problem+json")
            assert int(answer.headers["retry-after"]) > 0
    # Each took at most as long as the pool and a statement may, and a busy machine.
    assert slowest(answers) < 15
    accepted = len(coming.result())
    return accepted, len([each for each in stack.clients.asked() if each.status == 503])


def _stored(stack: Stack, accepted: int, refused: int) -> int:
    """Jobs there are: what was accepted, and what was committed in the moment in which its answer was lost."""
    stored = sum(stack.states().values())
    assert accepted <= stored <= accepted + refused, (accepted, stored, refused)
    return stored


def _said(stack: Stack) -> str:
    away: list[Answer] = [each for each in stack.clients.answers if each.status == 503]
    return f"503 x {len(away)}, slowest {slowest(away):.1f} s"


def _terminate(stack: Stack) -> int:
    """Ends every connection to the database, as an operator or a failover does."""
    name = stack.database_url.rpartition("/")[2]
    with psycopg.connect(stack.servers.postgres.server.url, autocommit=True) as db:
        query = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = %s"
        row = db.execute(query, [name]).fetchone()
    return row[0] if row else 0


def _let_in(stack: Stack, *, allowed: bool) -> None:
    name = stack.database_url.rpartition("/")[2]
    with psycopg.connect(stack.servers.postgres.server.url, autocommit=True) as db:
        db.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS {allowed}".encode())
