"""What is broken in a soak: one thing every so many seconds, drawn at random and mended again."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

import httpx
from redis import Redis
from redis.exceptions import RedisError

from scripts import process, stack
from scripts.supervisor import Server

#: How long a burst of provider faults lasts.
_BURST_SECONDS = 4.0
#: Less than a lease, and more: the second time the worker comes back to jobs that are no longer its own.
_FREEZES = (5.0, 14.0)


class Faults:
    """Draws them so that all kinds occur. ``worker-1`` and the simulator are never ended: they are watched throughout."""

    def __init__(self, running: stack.Stack, random: Random, every: float) -> None:
        self._running = running
        self._random = random
        self._every = every
        self._next = time.monotonic() + every
        self._later: list[tuple[float, Callable[[], None]]] = []
        self._left: list[str] = []
        self._workers = sorted(name for name in running.supervisor.servers if name.startswith("worker-"))
        self.done: Counter[str] = Counter()
        #: (seconds since the start, what)
        self.log: list[tuple[float, str]] = []
        self._began = time.monotonic()
        self._kinds: dict[str, Callable[[], str]] = {
            "worker SIGKILL": lambda: self._kill(self._mortal()),
            "worker SIGTERM": lambda: self._terminate(self._mortal()),
            "worker SIGSTOP": self._freeze,
            "valkey SIGKILL": lambda: self._kill("valkey"),
            "valkey restart": lambda: self._terminate("valkey"),
            "valkey FLUSHALL": self._flush,
            "postgres immediate restart": lambda: self._signal("postgres", signal.SIGQUIT),
            "api restart": lambda: self._terminate("api"),
            "beat SIGKILL": lambda: self._kill("beat"),
            "provider 503": lambda: self._burst("503", 0.7),
            "provider 429": lambda: self._burst("429", 0.5),
            "provider reset": lambda: self._burst("reset", 0.5),
            "provider stall": lambda: self._burst("stall", 0.3),
        }

    def tick(self) -> None:
        """Does what is due."""
        now = time.monotonic()
        for entry in [entry for entry in self._later if entry[0] <= now]:
            self._later.remove(entry)
            entry[1]()
        if now >= self._next:
            self._next += self._every
            if not self._left:
                self._left = self._random.sample(list(self._kinds), len(self._kinds))
            self._break(self._left.pop())

    def mend(self) -> None:
        """Nothing is broken any more; what was ended is started again by the supervisor."""
        self._next = float("inf")
        for _, work in self._later:
            work()
        self._later = []

    def _break(self, kind: str) -> None:
        detail = self._kinds[kind]()
        self.done[kind] += 1
        self.log.append((round(time.monotonic() - self._began, 1), f"{kind}: {detail}"))

    def _mortal(self) -> str:
        return self._random.choice(self._workers[1:])

    def _server(self, name: str) -> Server:
        return self._running.supervisor.servers[name]

    def _kill(self, name: str) -> str:
        self._server(name).kill()
        return name

    def _terminate(self, name: str) -> str:
        self._server(name).terminate()
        return name

    def _signal(self, name: str, number: signal.Signals) -> str:
        if self._server(name).alive:
            os.kill(self._server(name).pid, number)
        return name

    def _freeze(self) -> str:
        name, how_long = self._random.choice(self._workers), self._random.choice(_FREEZES)
        pids = process.family(self._server(name).pid) if self._server(name).alive else []
        process.signal_all(pids, signal.SIGSTOP)
        self._in(how_long, lambda: process.signal_all(pids, signal.SIGCONT))
        return f"{name} for {how_long:.0f} s"

    def _flush(self) -> str:
        try:
            with Redis.from_url(self._running.redis_url, socket_timeout=2) as redis:
                redis.flushall()
        except (RedisError, OSError) as error:
            return f"not possible ({type(error).__name__})"
        return "done"

    def _burst(self, fault: str, share: float) -> str:
        self._configure({"fault_rates": {fault: share}})
        self._in(_BURST_SECONDS, lambda: self._configure({"fault_rates": {}}))
        return f"{share:.0%} of the calls for {_BURST_SECONDS:.0f} s"

    def _configure(self, changes: dict[str, Any]) -> None:
        url = f"{self._running.simulator_url}/sim/config"
        httpx.put(url, json=changes, trust_env=False, timeout=10).raise_for_status()

    def _in(self, seconds: float, work: Callable[[], None]) -> None:
        self._later.append((time.monotonic() + seconds, work))
