"""Wake-ups over Redis pub/sub: best effort, and every reader then reads PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from uuid import UUID

from redis.asyncio import Redis
from redis.exceptions import RedisError

from shared.config import Settings
from shared.queue import SOCKET_CONNECT_TIMEOUT

log = logging.getLogger(__name__)

CANCEL_CHANNEL = "plantain:cancel"
_PUBLISH_TIMEOUT = 1.0
_RECONNECT_SECONDS = 1.0
_POLL_SECONDS = 5.0


class Wakeups:
    """Says on Redis that a job's row has something new in it, and listens for that."""

    def __init__(self, settings: Settings) -> None:
        self.redis: Redis = Redis.from_url(
            settings.redis_url.get_secret_value(),
            socket_timeout=_POLL_SECONDS + 5,
            socket_connect_timeout=SOCKET_CONNECT_TIMEOUT,
            socket_keepalive=True,
            health_check_interval=10,
        )

    async def cancel_requested(self, job_id: UUID) -> None:
        """Best effort: without it, the worker learns of the cancel at its next renewal."""
        try:
            async with asyncio.timeout(_PUBLISH_TIMEOUT):
                await self.redis.publish(CANCEL_CHANNEL, str(job_id))
        except (RedisError, OSError, TimeoutError) as error:
            log.warning("no wake-up for the cancel of %s (%s)", job_id, type(error).__name__)

    async def listen_for_cancels(self, wake: Callable[[UUID], Awaitable[None]]) -> None:
        """Calls ``wake`` for every cancel asked for; reconnects for ever; ends when cancelled."""
        while True:
            with contextlib.suppress(RedisError, OSError, TimeoutError):
                async with self.redis.pubsub(ignore_subscribe_messages=True) as pubsub:
                    await pubsub.subscribe(CANCEL_CHANNEL)
                    while True:
                        message = await pubsub.get_message(timeout=_POLL_SECONDS)
                        if message:
                            await _wake(wake, message["data"])
            await asyncio.sleep(_RECONNECT_SECONDS)

    async def ping(self) -> None:
        """Raises: RedisError, OSError or TimeoutError where Redis is away."""
        async with asyncio.timeout(_PUBLISH_TIMEOUT):
            await self.redis.ping()

    async def close(self) -> None:
        await self.redis.aclose()


async def _wake(wake: Callable[[UUID], Awaitable[None]], data: bytes) -> None:
    """One wake-up. Whatever goes wrong (the database is away), the next one must be heard."""
    try:
        await wake(UUID(data.decode()))
    except Exception as error:
        log.warning("a wake-up came to nothing (%s)", type(error).__name__, exc_info=True)
