"""The newest events of all projects that somebody listens to, read once for the whole process and handed out."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any
from uuid import UUID

from sqlalchemy import Row

from api import render
from api.hub import LOOK_SECONDS, Hub, rung
from shared.db import Database, is_unavailable
from shared.events.horizon import Horizon
from shared.events.service import EventService

log = logging.getLogger(__name__)

PAGE = 500
#: Events that wait for a slow reader; one with more of them is cut off.
_MAX_PENDING = 1000
#: Between looks while something waits beyond the horizon: the first pause and the longest, seconds.
_PAUSES = (0.002, 0.2)


class Feed:
    """What was read for one stream and is not sent yet."""

    __slots__ = ("after", "bell", "ended", "on_cut", "pending")

    def __init__(self, bell: asyncio.Event, on_cut: Callable[[], None]) -> None:
        self.bell = bell
        self.on_cut = on_cut
        #: What is not larger it has had.
        self.after = 0
        self.pending: list[bytes] = []
        self.ended = False

    def push(self, events: Sequence[tuple[int, bytes]]) -> None:
        if self.ended:
            return
        self.pending += [data for number, data in events if number > self.after]
        self.bell.set()
        if len(self.pending) > _MAX_PENDING:
            self.cut()

    def cut(self) -> None:
        """Ends the stream. Its client may come back and go on where it was."""
        self.ended = True
        self.pending.clear()
        self.bell.set()
        self.on_cut()

    def take(self) -> bytes:
        pending, self.pending = self.pending, []
        return b"".join(pending)


class Tail:
    """Reads while anybody listens: at once when the hub rings, and every few seconds by itself."""

    def __init__(self, events: EventService, database: Database, hub: Hub, public_url: str) -> None:
        self._events = events
        self._database = database
        self._hub = hub
        self._public_url = public_url
        self._bell = asyncio.Event()
        self._listeners: Counter[UUID] = Counter()
        self._feeds: defaultdict[UUID, set[Feed]] = defaultdict(set)
        self._reading: asyncio.Task[None] | None = None
        #: What was read so far; everything up to it is settled.
        self._position: int | None = None

    @property
    def position(self) -> int:
        assert self._position is not None, "nobody has joined"
        return self._position

    @contextmanager
    def listener(self, project_id: UUID) -> Iterator[None]:
        """From here on the project's events are read; ``start`` must come next."""
        self._listeners[project_id] += 1
        if self._listeners[project_id] == 1:
            self._hub.add(project_id, self._bell)
        try:
            yield
        finally:
            self._listeners[project_id] -= 1
            if not self._listeners[project_id]:
                del self._listeners[project_id]
                self._hub.remove(project_id, self._bell)
            if not self._listeners:
                self._stop()

    async def start(self) -> None:
        """Begins to read, if nobody did.

        Raises:
            Unavailable: where to begin cannot be said, because an old transaction does not end.
        """
        if self._position is None:
            now = await self._events.now()
            if self._position is None:  # the first of those who asked
                self._position = now
                self._reading = asyncio.create_task(self._read())

    @contextmanager
    def feeding(self, project_id: UUID, feed: Feed) -> Iterator[None]:
        """Hands the feed everything beyond the present position."""
        self._feeds[project_id].add(feed)
        try:
            yield
        finally:
            self._feeds[project_id].discard(feed)
            if not self._feeds[project_id]:
                del self._feeds[project_id]

    def _stop(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
        self._reading = self._position = None

    async def _read(self) -> None:
        clock = asyncio.get_running_loop().time
        horizon, pause = Horizon(self.position), _PAUSES[0]
        while not self._hub.closing:
            self._bell.clear()
            began = clock()
            try:
                await self._look(horizon)
            except Exception as error:
                if is_unavailable(error):
                    self._database.outage.failed(error)
                else:
                    log.exception("events could not be read; trying again")
                await asyncio.sleep(1)
            # Under load, a third of the time: what comes meanwhile is read together.
            await asyncio.sleep(2 * (clock() - began))
            pause = min(2 * pause, _PAUSES[1]) if horizon.waits else _PAUSES[0]
            await rung(self._bell, pause if horizon.waits else LOOK_SECONDS)
        for feed in self._all_feeds():
            feed.bell.set()

    async def _look(self, horizon: Horizon) -> None:
        mark, oldest = await self._events.look()
        if mark.id < self.position:
            log.error(
                "the database was set back to event %d, from %d: all streams end", mark.id, self.position
            )
            self._position = horizon.settled = mark.id
            for feed in self._all_feeds():
                feed.cut()
        horizon.note(mark)
        horizon.settle(oldest)
        while self.position < horizon.settled:
            rows = await self._page(horizon.settled)
            self._hand_out(rows)
            # In the same step: who joins in between would get it twice, or never.
            self._position = rows[-1].id if len(rows) == PAGE else horizon.settled

    def _all_feeds(self) -> Iterator[Feed]:
        return chain.from_iterable(self._feeds.values())

    async def _page(self, until: int) -> Sequence[Row[Any]]:
        while True:
            projects = frozenset(self._listeners)
            rows = await self._events.of_projects(
                list(projects), after=self.position, until=until, limit=PAGE
            )
            if projects >= self._listeners.keys():  # else somebody has come whose events were not asked for
                return rows

    def _hand_out(self, rows: Sequence[Row[Any]]) -> None:
        by_project: defaultdict[UUID, list[tuple[int, bytes]]] = defaultdict(list)
        for row in rows:
            if row.project_id in self._feeds:
                by_project[row.project_id].append((row.id, render.sse(row, self._public_url)))
        for project_id, events in by_project.items():
            for feed in self._feeds[project_id]:
                feed.push(events)
