"""Text as it is made, from Redis to the streams of this process (see ``shared/deltas.py``)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from contextvars import Context
from typing import Any
from uuid import UUID

from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from shared.config import Settings
from shared.deltas import Delta, channel_of, kept_text, key_of, unpack
from shared.outage import Outage
from shared.queue import SOCKET_CONNECT_TIMEOUT

log = logging.getLogger(__name__)

#: Characters that wait for one slow reader. With more, all are dropped, and it reads what is kept when it comes to it.
_MAX_PENDING = 64 * 1024
_PATIENCE_SECONDS = 1.0
_POLL_SECONDS = 5.0
_RECONNECT_SECONDS = 1.0


class DeltaFeed:
    """What was heard for one stream and is not sent yet."""

    __slots__ = ("_bell", "_pending", "_size", "missed")

    def __init__(self, bell: asyncio.Event) -> None:
        self._bell = bell
        self._pending: list[Delta] = []
        self._size = 0
        #: Something may have been said that was not heard, or was dropped.
        self.missed = False

    def push(self, delta: Delta) -> None:
        if self._size + len(delta.text) > _MAX_PENDING:
            self.miss()
            return
        self._pending.append(delta)
        self._size += len(delta.text)
        self._bell.set()

    def miss(self) -> None:
        self.missed = True
        self._pending.clear()
        self._size = 0
        self._bell.set()

    def take(self) -> list[Delta]:
        pending, self._pending, self._size = self._pending, [], 0
        return pending


class Deltas:
    """One subscription for the whole process, to the channels of the jobs that are followed; made when the first one is."""

    def __init__(self, settings: Settings) -> None:
        self._redis: Redis = Redis.from_url(
            settings.redis_url.get_secret_value(),
            socket_timeout=_POLL_SECONDS + 5,
            socket_connect_timeout=SOCKET_CONNECT_TIMEOUT,
            socket_keepalive=True,
            health_check_interval=10,
            retry=Retry(NoBackoff(), 0),  # two tasks must not reconnect one connection
        )
        self._outage = Outage(log, "Redis, for text as it is made,")
        self._feeds: dict[bytes, set[DeltaFeed]] = {}
        self._listening: asyncio.Task[None] | None = None
        self._pubsub: PubSub | None = None
        #: Held while a channel is subscribed to or left, so that what was asked last holds.
        self._turn = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def feeding(self, job_id: UUID, feed: DeltaFeed) -> AsyncIterator[None]:
        """Hands the feed what is said from here on, and tells it when that begins: what was before, it has missed."""
        channel = channel_of(job_id).encode()
        feeds = self._feeds.setdefault(channel, set())
        feeds.add(feed)
        try:
            if len(feeds) == 1:
                await self._settle(channel)
            else:
                feed.miss()
            yield
        finally:
            feeds.discard(feed)
            if not feeds:
                del self._feeds[channel]
                await self._settle(channel)

    async def kept(self, job_id: UUID, attempt: int) -> Delta | None:
        """The text of an attempt so far, as far as it is kept."""
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                data: Any = await self._redis.get(key_of(job_id, attempt))
        except (RedisError, OSError, TimeoutError) as error:
            self._outage.failed(error)
            return None
        return Delta(attempt, 0, kept_text(data)) if data else None

    async def close(self) -> None:
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.wait({self._listening})
        await self._redis.aclose()

    async def _settle(self, channel: bytes) -> None:
        """Subscribes to a channel that has feeds, and leaves one that has none."""
        if self._listening is None:
            self._listening = asyncio.create_task(self._listen(), context=Context())
            return
        with contextlib.suppress(RedisError, OSError, TimeoutError):  # whoever listens finds that out, too
            async with self._turn, asyncio.timeout(_PATIENCE_SECONDS):
                if self._pubsub is None:
                    return
                if channel in self._feeds:
                    await self._pubsub.subscribe(channel)
                else:
                    await self._pubsub.unsubscribe(channel)

    async def _listen(self) -> None:
        """Hears and hands out; reconnects for ever; ends when cancelled."""
        while True:
            try:
                async with self._redis.pubsub() as pubsub:
                    await self._hear(pubsub)
            except (RedisError, OSError, TimeoutError) as error:
                self._outage.failed(error)
            await asyncio.sleep(_RECONNECT_SECONDS)

    async def _hear(self, pubsub: PubSub) -> None:
        async with self._turn:
            await pubsub.ping()
            if self._feeds:
                await pubsub.subscribe(*self._feeds)
            self._pubsub = pubsub
        try:
            while True:
                message = await pubsub.get_message(timeout=_POLL_SECONDS)
                if message is not None:
                    self._outage.went_well()
                    self._heard(message)
        finally:
            self._pubsub = None

    def _heard(self, message: dict[str, Any]) -> None:
        feeds = self._feeds.get(message["channel"], ()) if message["channel"] else ()
        if message["type"] == "subscribe":
            for feed in feeds:
                feed.miss()
        elif message["type"] == "message":
            try:
                delta = unpack(message["data"])
            except ValueError:
                log.warning("a message of %d bytes on a job's channel is none of ours", len(message["data"]))
                return
            for feed in feeds:
                feed.push(delta)
