"""Server-sent events as plain ASGI answers: of a job, or of everything in a project."""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod
from math import inf
from uuid import UUID

from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from api import render
from api.cycle import cycle_of
from api.deps import READ, authenticate, services_of
from api.hub import LOOK_SECONDS, rung
from api.tail import PAGE, Feed
from api.waiting import watched
from shared.errors import AppError
from shared.jobs.status import FINAL

log = logging.getLogger(__name__)

_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # proxies must not collect it
#: How long a client that lost the stream waits before it comes back, milliseconds.
_RETRY = b"retry: 1000\n"
FINAL_TYPES = frozenset(f"job.{state}" for state in FINAL)


class EventStream(StreamingResponse):
    """An answer that goes on. Ends when there is nothing to come, the client goes, or the process shuts down."""

    def __init__(self, request: Request, after: int | None) -> None:
        super().__init__((), headers=_HEADERS, media_type="text/event-stream")
        self.request = request
        self.services = services_of(request)
        self.beat = self.services.settings.stream_heartbeat_seconds
        #: The last event that the client has had; None where it wants what comes next.
        self.after = after
        self.bell = asyncio.Event()

    @abstractmethod
    async def run(self) -> None:
        """Sends what there is and what comes; ``open`` first."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        self._send, self._opened = send, False
        scope.setdefault("state", {})["endless"] = True  # at a shutdown nobody waits for who reads it slowly
        if scope["method"] == "HEAD":
            await self.open()
        else:
            with self.services.hub.place(), watched(self.request, self.bell) as self._client:
                try:
                    await self.run()
                except AppError:
                    if not self._opened:
                        raise
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def open(self, begins_after: int | None = None) -> None:
        """Sends the head, and the id with which a client comes back that has had no event yet."""
        self._opened = True
        self._heartbeat = self._clock() + self.beat
        await self._send(
            {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        )
        await self.write(_RETRY + (b"\n" if begins_after is None else b"id: %d\n\n" % begins_after))

    async def write(self, data: bytes) -> None:
        """Waits for a client that reads slowly; one that does not read at all is cut off (``api.standstill``)."""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def pause(self, seconds: float = inf) -> bool:
        """Waits until the bell rings, for so long at most, and no longer than until the next beat. False: this is the end.

        Raises:
            ClientDisconnect: nobody listens any more.
            Unauthenticated: the key is not valid any more.
        """
        if not self.bell.is_set():
            await rung(self.bell, min(seconds, max(0.0, self._heartbeat - self._clock())))
        self.bell.clear()
        if self._client.done():
            raise ClientDisconnect
        if self.services.hub.closing:
            return False
        if self._clock() >= self._heartbeat:
            self._heartbeat = self._clock() + self.beat
            await authenticate(self.request, READ)
            await self.write(b":\n\n")
        return True

    def unblock(self) -> None:
        """Cuts a client off that has not taken the last write: it may come back and go on where it was."""
        cycle = cycle_of(self.request.scope)
        if cycle is not None and cycle.flow.write_paused:
            log.warning(
                "%s:%d reads its events too slowly: its connection is cut", *(self.request.client or ("?", 0))
            )
            cycle.transport.abort()

    def _clock(self) -> float:
        return asyncio.get_running_loop().time()


class JobStream(EventStream):
    """A job's events from the first one on, or from after the given one; ends after the final one."""

    def __init__(self, request: Request, job_id: UUID, after: int | None) -> None:
        super().__init__(request, after)
        self._job_id = job_id

    async def run(self) -> None:
        hub, after = self.services.hub, self.after or 0
        hub.add(self._job_id, self.bell)
        try:
            await self.open()
            while True:
                rows = await self.services.events.of_job(self._job_id, after)
                if rows:
                    after = rows[-1].id
                    await self.write(
                        b"".join(render.sse(row, self.request.scope["public_url"]) for row in rows)
                    )
                    if rows[-1].type in FINAL_TYPES:
                        return
                if not await self.pause(LOOK_SECONDS):
                    return
        finally:
            hub.remove(self._job_id, self.bell)


class ProjectStream(EventStream):
    """All events of a project from after the given one on, or from now on."""

    def __init__(self, request: Request, project_id: UUID, after: int | None) -> None:
        super().__init__(request, after)
        self._project_id = project_id

    async def run(self) -> None:
        tail, feed = self.services.tail, Feed(self.bell, self.unblock)
        with tail.listener(self._project_id):
            await tail.start()
            feed.after = await self.services.events.now() if self.after is None else self.after
            await self.open(feed.after)
            if not await self._catch_up(feed):
                return
            with tail.feeding(self._project_id, feed):
                while not feed.ended:
                    if feed.pending:
                        await self.write(feed.take())
                    if not await self.pause():
                        return

    async def _catch_up(self, feed: Feed) -> bool:
        """Sends what lies between the client and the tail, page by page, until there is nothing. False: the end."""
        tail, events = self.services.tail, self.services.events
        while feed.after < (until := tail.position):
            rows = await events.of_projects([self._project_id], after=feed.after, until=until, limit=PAGE)
            if rows:
                await self.write(b"".join(render.sse(row, self.request.scope["public_url"]) for row in rows))
            feed.after = rows[-1].id if len(rows) == PAGE else until
            if self.services.hub.closing:
                return False
            if self._client.done():
                raise ClientDisconnect
        return True
