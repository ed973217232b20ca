"""``python -m scripts.benching.watch``: a client that submits one job at a time and waits for each, by all ways there are.

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

import uvloop

from scripts.benching.load import Spec
from scripts.benching.wire import Calls, Target, WireError

_FINAL = (b'"succeeded"', b'"failed"', b'"cancelled"', b'"expired"')
#: Seconds between two jobs, at random: no timer of the server beats in step with them.
_PAUSES = (0.02, 0.08)
Wait = Callable[[str], Awaitable[None]]


class NotOffered(Exception):
    """The API has no such way to wait."""


class Watch:
    """One client."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._target = Target(spec.host, spec.port, spec.headers)
        self._calls = Calls(self._target)

    async def run(self) -> dict[str, object]:
        """By the way of waiting: ``{"sent": […], "seen": […]}``."""
        ways: dict[str, Wait] = {"polling": self._poll, "Prefer: wait": self._prefer, "events": self._events}
        found: dict[str, object] = {}
        for name, wait in ways.items():
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
        self._last = f"{self._spec.paths[0]}/{json.loads(answer.body)['id']}"
        return self._last

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
    spec = Spec(**json.loads(sys.stdin.readline()))
    signal.alarm(60 + 6 * (spec.count or 1))
    print("begin", flush=True)
    print(json.dumps(uvloop.run(Watch(spec).run())), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
