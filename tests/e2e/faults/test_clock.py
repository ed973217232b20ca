"""Fault 24: processes whose clocks are wrong, and clocks that jump. Only the database's clock decides anything."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from tests.e2e.faults import clock
from tests.e2e.faults.clock import Clock
from tests.e2e.faults.conftest import NewStack
from tests.e2e.faults.harness import Stack
from tests.e2e.faults.parts import Program

_HOUR = 3600


@pytest.mark.slow
@pytest.mark.skipif(
    not clock.available(), reason="needs Linux and a C compiler (cc), to give a process a wrong clock"
)
@pytest.mark.fault(24, "workers an hour ahead and an hour behind; clocks that jump")
def test_wrong_clocks(new_stack: NewStack) -> None:
    """Leases, retries, a provider's delay, rescue and republishing all go on as if nothing were wrong."""
    stack = new_stack(workers=2, LEASE_SECONDS=3, PROVIDER_FAILURES_TO_PAUSE=1000)
    clocks = {name: _give_a_clock(stack, name) for name in ("worker-1", "worker-2", "beat")}
    for name in clocks:
        stack.wait_until(stack.parts[name].ready, 30, f"{name} is back")
    clocks["worker-1"].set(_HOUR)
    clocks["worker-2"].set(-_HOUR)
    assert _seconds_off(stack, "worker-1") == pytest.approx(_HOUR, abs=60)

    good = stack.clients.submit(20, seconds=1.0)
    good += stack.clients.submit(4, kind="image", seconds=1.0)
    retried = stack.clients.submit(6, seconds=0.2, sim="fault=500;times=1")
    stack.wait_until(
        lambda: stack.running("worker-2") > 2, 20, "the worker that is behind has calls in flight"
    )
    stack.kill("worker-2")
    stack.mark()
    stack.settle(40)
    unknown = stack.outcomes()["unknown"]

    clocks["worker-1"].set(-_HOUR)
    clocks["beat"].set(-_HOUR)
    with stack.redis() as redis:
        stack.freeze("worker-1")
        stack.freeze("worker-2")
        late = stack.clients.submit(20, seconds=0.5)
        redis.flushall()
        stack.thaw("worker-1")
        stack.thaw("worker-2")
    stack.mark()
    stack.settle(40)
    clocks["beat"].set(_HOUR)
    retried += stack.clients.submit(6, seconds=0.2, sim="fault=500;times=1")
    stack.settle(40)

    outcomes = stack.outcomes()
    assert outcomes["succeeded"] == len(good) + len(retried) + len(late)
    assert outcomes["unknown"] == unknown
    recovery = stack.recovery()
    assert recovery is not None
    assert recovery < 20
    least = len(good) + 2 * len(retried) + len(late)
    stack.verify(calls=(least, least + unknown))


def _give_a_clock(stack: Stack, name: str) -> Clock:
    """Has the process started again with a clock of its own, which is right until it is set."""
    made = Clock(stack.folder / f"clock of {name}".replace(" ", "-"))
    part = stack.parts[name]
    assert isinstance(part, Program)
    part.environment |= made.environment
    stack.restart(name)
    return made


def _seconds_off(stack: Stack, name: str) -> float:
    """As a Python process with this environment sees it."""
    part = stack.parts[name]
    assert isinstance(part, Program)
    code = "import datetime as d; print(d.datetime.now(d.UTC).timestamp())"
    told = subprocess.run(
        [sys.executable, "-I", "-c", code], env=part.environment, check=True, capture_output=True, text=True
    )
    return float(told.stdout) - time.time()
