"""``python -m scripts.benching.follow``: thousands of open event streams, and changes to jobs that they are told of.

Told what on stdin. Says ``begin`` when all streams are open; changes jobs ``warm`` seconds later, one by one, as a
worker does: a transaction, and after its commit a wake-up. Then says for how long each event was on its way.
"""

from __future__ import annotations

import asyncio
import gc
import json
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast
from uuid import UUID

import uvloop

from scripts.benching.figures import percentile
from scripts.benching.load import Spec
from scripts.benching.wire import Target, WireError
from shared.config import Settings
from shared.db import Database
from shared.jobs import queries
from shared.wakeups import Wakeups

#: Streams that are being opened at once.
_OPENING = 50
#: Seconds between two changes: the next one meets nobody who is still being told of the last.
_PAUSE = 0.1
_PATIENCE = 10.0


@dataclass(frozen=True)
class StreamSpec(Spec):
    """What to follow, and what to change.

    Attributes:
        paths: one stream each, `connections` of them, in turn.
        jobs: the ids of queued jobs that are cancelled, each told to `told` streams.
    """

    database_url: str = ""
    redis_url: str = ""
    project: str = ""
    jobs: tuple[str, ...] = ()
    told: int = 1


class Stream(asyncio.Protocol):
    """One client that follows."""

    def __init__(
        self, request: bytes, on_open: Callable[[WireError | None], None], on_cancelled: Callable[[], None]
    ) -> None:
        self._request = request
        self._on_open, self._on_cancelled = on_open, on_cancelled
        self._is_open = False
        self._seen = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no instance of it
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if not self._is_open:
            self._seen += data
            if not self._seen.startswith(b"HTTP/1.1 200"[: len(self._seen)]):
                self._on_open(WireError(self._seen.decode("latin-1")))
                return
            if b"retry: " not in self._seen:
                return
            self._is_open, self._seen = True, b""
            self._on_open(None)
        for _ in range(data.count(b"event: job.cancelled\n")):
            self._on_cancelled()


class Follow:
    """One run."""

    def __init__(self, spec: StreamSpec) -> None:
        self._spec = spec
        self._committed = 0.0
        self._took: list[float] = []
        self._told = asyncio.Event()

    async def run(self) -> dict[str, object]:
        began = time.monotonic()
        await self._open_all()
        opened = time.monotonic() - began
        gc.collect()
        gc.disable()
        print("begin", flush=True)
        await asyncio.sleep(self._spec.warm)
        await self._change_all()
        ordered = sorted(self._took)
        return {
            "open": opened,
            "events": len(ordered),
            "p50": percentile(ordered, 0.50),
            "p99": percentile(ordered, 0.99),
            "last": ordered[-1],
        }

    async def _open_all(self) -> None:
        spec, loop = self._spec, asyncio.get_running_loop()
        target, slots = Target(spec.host, spec.port, spec.headers), asyncio.Semaphore(_OPENING)

        async def open_one(path: str) -> None:
            async with slots, asyncio.timeout(_PATIENCE):
                opened: asyncio.Future[None] = loop.create_future()

                def is_open(error: WireError | None) -> None:
                    if not opened.done():
                        opened.set_exception(error) if error else opened.set_result(None)

                request = target.request("GET", path, more={"Accept": "text/event-stream"})
                await loop.create_connection(
                    lambda: Stream(request, is_open, self._cancelled), spec.host, spec.port
                )
                await opened

        paths = [spec.paths[number % len(spec.paths)] for number in range(spec.connections)]
        await asyncio.gather(*map(open_one, paths))

    def _cancelled(self) -> None:
        self._took.append(time.monotonic() - self._committed)
        if len(self._took) == self._expected:
            self._told.set()

    async def _change_all(self) -> None:
        spec, self._expected = self._spec, 0
        settings = Settings(_env_file=None, database_url=spec.database_url, redis_url=spec.redis_url)
        database, wakeups, project = (
            Database(settings, application="bench"),
            Wakeups(settings),
            UUID(spec.project),
        )
        for job in map(UUID, spec.jobs):
            self._expected += spec.told
            self._told.clear()
            async with database.transaction() as db:
                await queries.cancel(db, project, job)
            self._committed = time.monotonic()
            wakeups.changed([(project, job)])
            async with asyncio.timeout(_PATIENCE):
                await self._told.wait()
            await asyncio.sleep(_PAUSE)
        await wakeups.close()
        await database.close()


def main() -> int:
    spec = StreamSpec(**json.loads(sys.stdin.readline()))
    signal.alarm(int(120 + spec.warm + spec.connections / 20 + len(spec.jobs)))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print(json.dumps(uvloop.run(Follow(spec).run())), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
