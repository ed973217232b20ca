"""``python -m scripts.benching.load``: a load generator, told what to do on stdin, in JSON.

A closed loop: every connection sends its next request when it has the answer to the last. Says ``begin`` on stdout
when it has warmed up, and at the end one line of JSON with what it saw.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import resource
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

import uvloop

from scripts.benching.figures import percentile
from scripts.benching.wire import Answer, Calls, Connection, Target, WireError

#: What an answer may take before the whole run is given up, in seconds.
_PATIENCE = 60.0


@dataclass(frozen=True)
class Spec:
    """What to ask for.

    Attributes:
        paths: asked for in turn.
        expect: the status of a right answer; `must_hold` stands in its body.
        seconds: how long, after `warm` seconds that do not count; or `count` requests in all, none of them warm-up.
        conditional: fetch every path once before, and send its ETag along from then on.
    """

    host: str
    port: int
    method: str
    paths: list[str]
    headers: dict[str, str]
    body: str = ""
    expect: int = 200
    must_hold: str = ""
    connections: int = 32
    warm: float = 0.5
    seconds: float = 3.0
    count: int | None = None
    conditional: bool = False


@dataclass
class Load:
    """One run of a `Spec`."""

    spec: Spec
    latencies: list[float] = field(default_factory=list)
    answers: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    async def run(self) -> dict[str, object]:
        """Raises: WireError: the server hung up."""
        spec, loop = self.spec, asyncio.get_running_loop()
        self._target = Target(spec.host, spec.port, spec.headers)
        self._requests = itertools.cycle(await self._prepared())
        self._must_hold = spec.must_hold.encode()
        self._left = spec.count if spec.count is not None else sys.maxsize
        self._done: asyncio.Future[None] = loop.create_future()
        opened = [
            (
                await loop.create_connection(
                    lambda: Connection(self._answered, self._lost), spec.host, spec.port
                )
            )[1]
            for _ in range(spec.connections)
        ]
        gc.collect()
        gc.disable()
        warm = spec.warm if spec.count is None else 0.0
        self._begin = time.monotonic() + warm
        self._end = self._begin + spec.seconds if spec.count is None else float("inf")
        loop.call_at(loop.time() + warm, self._begun)
        self._open = len(opened)
        for connection in opened:
            self._next(connection)
        await self._done
        took = min(time.monotonic(), self._end) - self._begin
        spent = _cpu() - self._cpu
        for connection in opened:
            connection.close()
        return self._result(took, spent)

    async def _prepared(self) -> list[bytes]:
        spec, target = self.spec, self._target
        if not spec.conditional:
            return [target.request(spec.method, path, spec.body.encode()) for path in spec.paths]
        calls, requests = Calls(target), []
        for path in spec.paths:
            etag = (await calls.call("GET", path)).header(b"etag")
            if etag is None:
                raise WireError(f"{path} is answered without an ETag")
            requests.append(target.request(spec.method, path, b"", {"If-None-Match": etag.decode()}))
        return requests

    def _begun(self) -> None:
        self._cpu = _cpu()
        print("begin", flush=True)

    def _next(self, connection: Connection) -> None:
        if self._left <= 0 or time.monotonic() >= self._end:
            self._open -= 1
            if not self._open and not self._done.done():
                self._done.set_result(None)
            return
        self._left -= 1
        connection.sent = time.monotonic()
        connection.send(next(self._requests))

    def _answered(self, connection: Connection, answer: Answer) -> None:
        now = time.monotonic()
        self.answers[answer.status] += 1
        if answer.status != self.spec.expect or self._must_hold not in answer.body:
            self.wrong.append(f"{answer.status} {answer.body[:300].decode('utf-8', 'replace')}")
        if self._begin <= now <= self._end:
            self.latencies.append(now - connection.sent)
        self._next(connection)

    def _lost(self) -> None:
        if not self._done.done():
            self._done.set_exception(WireError("the server closed a connection"))

    def _result(self, took: float, spent: float) -> dict[str, object]:
        ordered = sorted(self.latencies)
        return {
            "completed": len(ordered),
            "all": self.answers.total(),
            "seconds": took,
            "p50": percentile(ordered, 0.50),
            "p95": percentile(ordered, 0.95),
            "p99": percentile(ordered, 0.99),
            "cpu": spent,
            "wrong": self.wrong[:5],
            "wrong count": len(self.wrong),
        }


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> int:
    spec = Spec(**json.loads(sys.stdin.readline()))
    signal.alarm(int(_PATIENCE + spec.warm + spec.seconds + (spec.count or 0) / 50))
    print(json.dumps(uvloop.run(Load(spec).run())), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
