"""Runs the feed and the sender beside beat's passes, on its loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from shared.config import Settings
from shared.db import Database, is_unavailable
from shared.wakeups import Wakeups
from worker.webhooks.feed import Feed
from worker.webhooks.sender import Sender

log = logging.getLogger(__name__)

#: Between looks, seconds: for events, while some are not settled yet, for deliveries that are due, and while nobody
#: wants to hear of anything.
_LOOK, _SETTLING, _DUE, _NOBODY = 0.25, 0.05, 1.0, 2.0
#: After an error.
_REST = 2.0


class Dispatcher:
    """``start`` it on a running loop, and ``close`` it there."""

    def __init__(self, database: Database, settings: Settings, wakeups: Wakeups) -> None:
        self._database = database
        self._bell = asyncio.Event()
        self._feed = Feed(database, settings)
        self._sender = Sender(database, settings, wakeups, self._bell.set)
        self._anybody = False
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._tasks = [
            asyncio.create_task(self._for_ever(self._look)),
            asyncio.create_task(self._for_ever(self._fill)),
        ]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._sender.close()

    async def _look(self) -> None:
        self._anybody = await self._feed.look()
        self._bell.set()
        pause = _SETTLING if self._feed.waits else _LOOK
        await asyncio.sleep(pause if self._anybody else _NOBODY)

    async def _fill(self) -> None:
        self._bell.clear()
        if self._anybody:
            await self._sender.fill()
        try:
            async with asyncio.timeout(_DUE):
                await self._bell.wait()
        except TimeoutError:
            pass
        await asyncio.sleep(0.02)  # what ends at the same time makes room once

    async def _for_ever(self, step: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await step()
            except Exception as error:
                if is_unavailable(error):
                    self._database.outage.failed(error)
                else:
                    log.exception("webhooks: something went wrong; trying again")
                await asyncio.sleep(_REST)
