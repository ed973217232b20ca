"""A job's event stream with its text as it is made."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from fastapi import Request
from sqlalchemy import Row

from api import render
from api.deltas import DeltaFeed
from api.deps import caller_of
from api.hub import LOOK_SECONDS
from api.streams import FINAL_TYPES, EventStream
from shared.deltas import Delta
from shared.jobs.status import State


class Told:
    """How much of which attempt's text a client has been told."""

    def __init__(self) -> None:
        self.attempt = 0
        #: Characters up to here it has had, but for gaps; and those before the first gap.
        self.end = 0
        self.sure = 0

    def lacks_before(self, delta: Delta) -> bool:
        """Whether there is text before this piece that was not told."""
        if delta.attempt == self.attempt:
            return delta.offset > self.end
        return delta.attempt > self.attempt and delta.offset > 0

    def tell(self, delta: Delta) -> Delta | None:
        """What of it is news; from here on, that has been told."""
        if delta.attempt > self.attempt:
            self.attempt, self.end, self.sure = delta.attempt, 0, 0
        if delta.attempt < self.attempt or delta.end <= self.end:
            return None
        new = delta.after(self.end)
        if new.offset == self.sure:
            self.sure = new.end
        self.end = new.end
        return new

    def rest(self, whole: Delta) -> Delta | None:
        """What of an attempt's whole text, its first gap and all that follows, a client still needs."""
        rest = whole.after(self.sure if whole.attempt == self.attempt else 0)
        return rest if rest.text else None


class _News(asyncio.Event):
    """Rings a bell that others ring, too."""

    def __init__(self, bell: asyncio.Event) -> None:
        super().__init__()
        self._bell = bell

    def set(self) -> None:
        super().set()
        self._bell.set()


class TextStream(EventStream):
    """As ``JobStream``; between the events, the pieces of the text, and before the success, what is missing of it."""

    def __init__(self, request: Request, job: Row[Any], after: int | None) -> None:
        super().__init__(request, after)
        self._job_id: UUID = job.id
        self._position = after or 0
        self._attempt: int = job.attempt
        self._told = Told()

    async def run(self) -> None:
        news, feed = _News(self.bell), DeltaFeed(self.bell)
        self.services.hub.add(self._job_id, news)
        try:
            await self.open()
            if await self._look():
                return
            async with self.services.deltas.feeding(self._job_id, feed):
                await self._follow(news, feed)
        finally:
            self.services.hub.remove(self._job_id, news)

    async def _follow(self, news: asyncio.Event, feed: DeltaFeed) -> None:
        look_at = self._clock() + LOOK_SECONDS
        while await self.pause(max(0.0, look_at - self._clock())):
            heard = feed.take()
            # An attempt's text comes after the event that it has begun, also where that event's wake-up was lost.
            begun = any(delta.attempt > self._attempt for delta in heard)
            if begun or news.is_set() or self._clock() >= look_at:
                news.clear()
                look_at = self._clock() + LOOK_SECONDS
                if await self._look():
                    return
            await self._tell(heard, feed)

    async def _look(self) -> bool:
        """Sends the events that are new. True: that was the last."""
        rows = await self.services.events.of_job(self._job_id, self._position)
        if not rows:
            return False
        self._position, self._attempt = rows[-1].id, rows[-1].attempt
        if rows[-1].type not in FINAL_TYPES:
            await self.write(self._events(rows))
            return False
        rest = await self._rest(rows[-1])
        await self.write(
            self._events(rows[:-1]) + self._deltas([rest] if rest else []) + self._events(rows[-1:])
        )
        return True

    async def _rest(self, final: Row[Any]) -> Delta | None:
        if final.state != State.SUCCEEDED:
            return None
        job = await self.services.jobs.result(caller_of(self.request).project_id, self._job_id)
        return self._told.rest(Delta(final.attempt, 0, job.result.get("text") or ""))

    async def _tell(self, heard: Sequence[Delta], feed: DeltaFeed) -> None:
        """Sends the pieces that came. Where some are missing, those that are kept; where they are not, a gap stays."""
        missed, feed.missed = feed.missed, False
        news: list[Delta] = []
        if missed and not heard and self._attempt:
            news += await self._kept(self._attempt)
        for delta in heard:
            if self._told.lacks_before(delta):
                news += await self._kept(delta.attempt)
            if new := self._told.tell(delta):
                news.append(new)
        if news:
            await self.write(self._deltas(_joined(news)))

    async def _kept(self, attempt: int) -> list[Delta]:
        kept = await self.services.deltas.kept(self._job_id, attempt)
        new = self._told.tell(kept) if kept else None
        return [new] if new else []

    def _deltas(self, deltas: Sequence[Delta]) -> bytes:
        return b"".join(render.delta(self._job_id, piece) for delta in deltas for piece in delta.split())

    def _events(self, rows: Sequence[Row[Any]]) -> bytes:
        return b"".join(render.sse(row, self.request.scope["public_url"]) for row in rows)


def _joined(deltas: Sequence[Delta]) -> list[Delta]:
    """The same text in as few pieces as there can be."""
    joined: list[Delta] = []
    for delta in deltas:
        last = joined[-1] if joined else None
        if last and last.attempt == delta.attempt and last.end == delta.offset:
            joined[-1] = Delta(last.attempt, last.offset, last.text + delta.text)
        else:
            joined.append(delta)
    return joined
