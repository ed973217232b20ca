"""``python -m scripts.benching.watch``: a client that submits one job at a time and waits for each, by each way it is told.

Told where on stdin; says on stdout when each job was sent and when its end was seen, in seconds of CLOCK_MONOTONIC.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import uvloop

from scripts.benching.load import Spec
from scripts.benching.wire import Calls, Target, WireError

_FINAL = (b'"succeeded"', b'"failed"', b'"cancelled"', b'"expired"')
#: Seconds between two jobs, at random: no timer of the server beats in step with them.
_PAUSES = (0.02, 0.08)
#: Seconds after a call that nobody waited for the end of: it has been answered and recorded by then.
_END = 0.08
_PATIENCE = 30.0
CALL = "call"
Wait = Callable[[str], Awaitable[None]]


@dataclass(frozen=True)
class WatchSpec(Spec):
    """What to submit, and by which ways to wait for each of `count` jobs; those of ``call`` come first.

    Attributes:
        provider: its port. Who waits for the ``call`` asks it, and leaves the API alone meanwhile.
    """

    ways: tuple[str, ...] = (CALL,)
    provider: int = 0


class NotOffered(Exception):
    """The API has no such way to wait."""


class Watch:
    """One client."""

    def __init__(self, spec: WatchSpec) -> None:
        self._spec = spec
        self._target = Target(spec.host, spec.port, spec.headers)
        self._calls = Calls(self._target)
        self._provider = Calls(Target(spec.host, spec.provider, {}))
        self._sent = 0

    async def run(self) -> dict[str, object]:
        """By the way of waiting: ``{"sent": […], "seen": […]}``."""
        ways: dict[str, Wait] = {
            CALL: self._called,
            "polling": self._poll,
            "Prefer: wait": self._prefer,
            "events": self._events,
        }
        found: dict[str, object] = {}
        for name in self._spec.ways:
            wait = ways[name]
            sent: list[float] = []
            seen: list[float] = []
            try:
                for _ in range(self._spec.count or 1):
                    await asyncio.sleep(random.uniform(*_PAUSES))
                    sent.append(time.monotonic())
                    await wait(await self._submit())
                    seen.append(time.monotonic())
            except NotOffered:
                await self._poll(self._last)
            found[name] = {"sent": sent, "seen": seen}
        return found

    async def _submit(self) -> str:
        answer = await self._calls.call("POST", self._spec.paths[0], self._spec.body.encode())
        if answer.status != self._spec.expect:
            raise WireError(f"{answer.status} {answer.body[:300]!r}")
        self._sent += 1
        self._last = f"{self._spec.paths[0]}/{json.loads(answer.body)['id']}"
        return self._last

    async def _called(self, _: str) -> None:
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._provider.call("GET", f"/wait?calls={self._sent}")
        except TimeoutError:
            raise WireError(f"job {self._sent} was not called within {_PATIENCE:g} s") from None
        await asyncio.sleep(_END)

    async def _poll(self, path: str) -> None:
        while not _is_final((await self._calls.call("GET", path)).body):
            pass

    async def _prefer(self, path: str) -> None:
        while True:
            answer = await self._calls.call("GET", path, more={"Prefer": "wait=10"})
            if _is_final(answer.body):
                return
            if answer.header(b"preference-applied") is None:
                raise NotOffered

    async def _events(self, path: str) -> None:
        """Server-sent events, on a connection of their own."""
        reader, writer = await asyncio.open_connection(self._spec.host, self._spec.port)
        try:
            writer.write(self._target.request("GET", f"{path}/events", more={"Accept": "text/event-stream"}))
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200") or b"text/event-stream" not in head:
                raise NotOffered
            seen = b""
            while not _is_final(seen):
                data = await reader.read(65536)
                if not data:
                    raise WireError("the stream ended before the job did")
                seen += data
        finally:
            writer.close()


def _is_final(body: bytes) -> bool:
    return any(state in body for state in _FINAL)


def main() -> int:
    spec = WatchSpec(**json.loads(sys.stdin.readline()))
    signal.alarm(60 + 2 * len(spec.ways) * (spec.count or 1))
    print("begin", flush=True)
    print(json.dumps(uvloop.run(Watch(spec).run())), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
