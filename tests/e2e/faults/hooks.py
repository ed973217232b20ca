"""Webhooks of a stack, and the receiver that gets them."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx

from tests.e2e.faults.harness import Stack
from tests.receiver import Answer, Received, Receiver, receiving

#: So long the receiver takes for each: with that, as many are under way as there is room for.
_SECONDS = 1.0


@dataclass
class Hooks:
    """Endpoints that each hear how jobs end."""

    receiver: Receiver
    secrets: dict[str, str] = field(default_factory=dict)
    under_way: int = 0
    most: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, stack: Stack, path: str) -> None:
        url = f"http://127.0.0.1:{stack.api_port}/api/v1/webhooks"
        headers = {"Authorization": f"Bearer {stack.servers.key}"}
        wanted = {"url": self.receiver.url + path, "events": ["job.succeeded"]}
        made = httpx.post(url, json=wanted, headers=headers, trust_env=False)
        made.raise_for_status()
        self.secrets[path] = made.json()["secret"]
        self.receiver.answers[path] = self._slowly

    def arrived(self) -> dict[tuple[str, str], set[str]]:
        """The ids of messages by path and job, each one with a valid signature."""
        found: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
        for path, secret in self.secrets.items():
            for request in self.receiver.at(path):
                found[path, request.verified(secret)["data"]["id"]].add(request.id)
        return found

    def _slowly(self, _: Received) -> Answer:
        with self._lock:
            self.under_way += 1
            self.most = max(self.most, self.under_way)
        time.sleep(_SECONDS)
        with self._lock:
            self.under_way -= 1
        return 200, {}, b""


@contextmanager
def hooks(stack: Stack, endpoints: int) -> Iterator[Hooks]:
    """So many endpoints of the stack's project."""
    with receiving() as receiver:
        made = Hooks(receiver)
        for number in range(endpoints):
            made.add(stack, f"/{number}")
        yield made
