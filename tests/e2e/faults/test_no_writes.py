"""Faults 26 and 27: PostgreSQL is there and answers, and writes nothing: its disk is full, or it is read-only."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.e2e.faults.clients import Answer, slowest
from tests.e2e.faults.conftest import NewStack
from tests.e2e.faults.disk import NoDiskError, SmallDisk
from tests.e2e.faults.harness import Servers, Stack

#: Longer than a lease.
_SECONDS = 6.0


@pytest.fixture
def small_disk(servers: Servers) -> Iterator[SmallDisk]:
    try:
        disk = SmallDisk(servers)
    except NoDiskError as error:
        pytest.skip(str(error))
    yield disk
    disk.close()


@pytest.mark.slow
@pytest.mark.fault(26, "PostgreSQL's disk full under load")
def test_full_disk(small_disk: SmallDisk, new_stack: NewStack) -> None:
    """Some writes still find room in pages that there are; those that do not leave nothing behind."""
    stack = new_stack(workers=2, tablespace=small_disk.tablespace, LEASE_SECONDS=3, WORKER_CONCURRENCY=20)
    _get_under_way(stack)
    began = time.monotonic()
    small_disk.fill()
    _suffer(stack, "full")
    small_disk.free()
    _recover(stack, began)


@pytest.mark.slow
@pytest.mark.fault(27, "PostgreSQL read-only under load")
def test_read_only(new_stack: NewStack) -> None:
    """As a standby is, or as an operator sets it: nothing is written, and everything can be looked at."""
    stack = new_stack(workers=2, LEASE_SECONDS=3, WORKER_CONCURRENCY=20)
    _get_under_way(stack)
    began = time.monotonic()
    with _read_only(stack.servers):
        _suffer(stack, "read_only")
    _recover(stack, began)


def _get_under_way(stack: Stack) -> None:
    """Calls whose answers arrive when nothing can be written."""
    stack.clients.submit(20, seconds=2.0)
    stack.clients.submit(8, kind="image", seconds=2.0)
    stack.wait_until(lambda: stack.calls() == 28, 20, "all calls are under way")


def _suffer(stack: Stack, state: str) -> None:
    coming = stack.clients.pour(100, over=_SECONDS - 1, seconds=0.2, padding=6000)
    images = stack.clients.pour(10, over=_SECONDS - 1, kind="image", seconds=0.2)
    stack.wait_until(lambda: _refused(stack) != [], _SECONDS, "a submit is refused")
    assert _health(stack, "live")[0] == 200
    status, found = _health(stack, "ready")
    assert (status, found["status"]) == (503, "unavailable")
    assert found["dependencies"]["postgresql"]["state"] == state
    assert found["dependencies"]["postgresql"]["detail"]
    stack.wait_until(lambda: coming.done() and images.done(), 30, "all is submitted")


def _recover(stack: Stack, began: float) -> None:
    stack.mark()
    refused = _refused(stack)
    assert stack.clients.submit(5, seconds=0.1) != [], "at once"
    stack.settle(60)
    answers = [each for each in stack.clients.answers if each.began >= began and "health" not in each.path]
    wrong = Counter((each.method, each.status, each.error) for each in answers if each.status >= 500)
    assert {method for method, *_ in wrong} == {"POST"}, "polls go on"
    assert {status for _, status, _ in wrong} == {503}
    for answer in refused:
        assert answer.headers["content-type"].startswith("application/problem+json")
        assert int(answer.headers["retry-after"]) > 0
    assert slowest(answers) < 3
    assert set(stack.states()) == {"succeeded"}
    stack.wait_until(lambda: _health(stack, "ready")[1]["status"] == "ready", 15, "all is well again")
    # Nothing was committed that was refused, and no answer that had been paid for was thrown away.
    jobs = sum(stack.states().values())
    assert jobs == len(stack.clients.told)
    assert stack.outcomes() == {"succeeded": jobs}
    stack.verify(calls=jobs, remark=f"503 x {len(refused)}, slowest answer {slowest(answers):.1f} s")


def _health(stack: Stack, which: str) -> tuple[int, dict[str, Any]]:
    response = stack.clients.request("GET", f"/api/health/{which}")
    assert response is not None
    return response.status_code, response.json()


def _refused(stack: Stack) -> list[Answer]:
    return [each for each in stack.clients.asked() if each.status == 503]


@contextmanager
def _read_only(servers: Servers) -> Iterator[None]:
    name = "default_transaction_read_only"
    servers.execute(f"ALTER SYSTEM SET {name} = on", "SELECT pg_reload_conf()")
    try:
        yield
    finally:
        servers.execute(f"ALTER SYSTEM RESET {name}", "SELECT pg_reload_conf()")
