"""Wake-ups over Redis pub/sub: best effort, and every reader then reads PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextvars import Context
from uuid import UUID

from redis.asyncio import Redis
from redis.exceptions import RedisError

from shared.config import Settings
from shared.outage import Outage
from shared.packed import PackedCommands, packed
from shared.queue import SOCKET_CONNECT_TIMEOUT

log = logging.getLogger(__name__)

CANCEL_CHANNEL = "plantain:cancel"
#: Each message is a row of changes: a project's id and a job's, 16 bytes each.
CHANGES_CHANNEL = "plantain:changes"
_PUBLISH_TIMEOUT = 1.0
_SUBSCRIBE_TIMEOUT = 10.0
_RECONNECT_SECONDS = 1.0
_POLL_SECONDS = 5.0
#: Changes that may wait for the message under way; what comes beyond is found by whoever looks by itself.
_MAX_PENDING = 5000
#: While changes come thick and fast, those of so many seconds go into one message; a few at a time go at once, and very many more
#: seldom: a message costs who sends it and each API process 0.15 ms, more than a submit.
_BUNDLE_SECONDS, _FEW = 0.01, 4
_LONG_BUNDLE_SECONDS, _MANY = 0.025, 50
#: How long a change may wait whose news nobody is in a hurry for: longer than a job's way from submit to call.
_SOON_SECONDS = 0.005
#: After a message that could not be sent, how long none are tried.
_REST_SECONDS = 2.0

#: Project and job.
Change = tuple[UUID, UUID]


class Wakeups:
    """Says on Redis that a job's row has something new in it, and listens for that."""

    def __init__(self, settings: Settings) -> None:
        self.redis: Redis = Redis.from_url(
            settings.redis_url.get_secret_value(),
            # As for messages about jobs: what is asked here has a time of its own.
            socket_timeout=None,
            socket_connect_timeout=SOCKET_CONNECT_TIMEOUT,
            socket_keepalive=True,
            health_check_interval=10,
        )
        self._packed = PackedCommands(self.redis)
        self._outage = Outage(log, "Redis, for wake-ups,")
        #: As they are sent: a project and a job each.
        self._pending: dict[bytes, None] = {}
        self._telling: asyncio.Task[None] | None = None
        #: Where what is pending has a few milliseconds.
        self._later: asyncio.TimerHandle | None = None
        self._rests_until = self._next_at = float("-inf")

    def changed(self, changes: Iterable[Change]) -> None:
        """Tells API processes that these jobs have something new in them. To be called after the commit.

        Costs the caller nothing, wherever Redis may be: while one message is under way, and some milliseconds after it,
        the changes that come are collected for the next one, up to a bound. Without it, whoever waits learns of them by
        looking.
        """
        self._collect(changes)
        self._tell_now()

    def changed_soon(self, changes: Iterable[Change]) -> None:
        """As ``changed``, some milliseconds later: that is for what goes on meanwhile, such as the job's way to its call.

        Each message wakes Redis and all API processes, which would take the cores from it.
        """
        self._collect(changes)
        if self._pending and self._telling is None and self._later is None:
            self._later = asyncio.get_running_loop().call_later(_SOON_SECONDS, self._tell_now)

    async def cancel_requested(self, job_id: UUID) -> None:
        """Best effort: without it, the worker learns of the cancel at its next renewal."""
        await self.cancels_requested([job_id])

    async def cancels_requested(self, job_ids: Sequence[UUID]) -> None:
        """Likewise for many, in one round trip."""
        if not job_ids:
            return
        try:
            async with asyncio.timeout(_PUBLISH_TIMEOUT), self.redis.pipeline(transaction=False) as pipe:
                for job_id in job_ids:
                    pipe.publish(CANCEL_CHANNEL, str(job_id))
                await pipe.execute()
        except (RedisError, OSError, TimeoutError) as error:
            whose = job_ids[0] if len(job_ids) == 1 else f"{len(job_ids)} jobs"
            log.warning("no wake-up for the cancel of %s (%s)", whose, type(error).__name__)

    async def listen_for_cancels(self, wake: Callable[[UUID], Awaitable[None]]) -> None:
        """Calls ``wake`` for every cancel asked for; reconnects for ever; ends when cancelled."""
        await self._listen(CANCEL_CHANNEL, lambda data: _wake(wake, data))

    async def listen_for_changes(self, wake: Callable[[Iterable[Change]], None]) -> None:
        """Calls ``wake`` with changes, after their commits; reconnects for ever; ends when cancelled."""

        async def hear(data: bytes) -> None:
            if len(data) % 32:
                log.warning("a wake-up of %d bytes is none of ours", len(data))
                return
            # Made one by one, and not at all where nobody asks for them.
            wake(
                (UUID(bytes=data[start : start + 16]), UUID(bytes=data[start + 16 : start + 32]))
                for start in range(0, len(data), 32)
            )

        await self._listen(CHANGES_CHANNEL, hear)

    async def ping(self) -> None:
        """Raises: RedisError, OSError or TimeoutError where Redis is away."""
        async with asyncio.timeout(_PUBLISH_TIMEOUT):
            await self.redis.ping()

    async def close(self) -> None:
        """Sends what waits to be sent, and closes the connections."""
        self._tell_now()
        if self._telling is not None:
            await asyncio.wait({self._telling}, timeout=_PUBLISH_TIMEOUT)
        await self._packed.close()
        await self.redis.aclose()

    def _collect(self, changes: Iterable[Change]) -> None:
        if time.monotonic() < self._rests_until:
            return
        for project, job in changes:
            if len(self._pending) >= _MAX_PENDING:
                break
            self._pending[project.bytes + job.bytes] = None

    def _tell_now(self) -> None:
        if self._later is not None:
            self._later.cancel()
            self._later = None
        if self._pending and self._telling is None:
            self._telling = asyncio.create_task(self._tell(), context=Context())

    async def _tell(self) -> None:
        """Sends what is pending, one message after the other, until nothing is."""
        try:
            while self._pending:
                if (pause := self._next_at - time.monotonic()) > 0:
                    await asyncio.sleep(pause)
                taken, self._pending = self._pending, {}
                if len(taken) > _FEW:
                    pause = _LONG_BUNDLE_SECONDS if len(taken) > _MANY else _BUNDLE_SECONDS
                    self._next_at = time.monotonic() + pause
                async with asyncio.timeout(_PUBLISH_TIMEOUT):
                    await self._packed.send([packed(b"PUBLISH", (CHANGES_CHANNEL.encode(), b"".join(taken)))])
                self._outage.went_well()
        except (RedisError, OSError, TimeoutError) as error:
            self._pending = {}
            self._rests_until = time.monotonic() + _REST_SECONDS
            self._outage.failed(error)
        finally:
            self._telling = None

    async def _listen(self, channel: str, hear: Callable[[bytes], Awaitable[None]]) -> None:
        while True:
            with contextlib.suppress(RedisError, OSError, TimeoutError):
                async with self.redis.pubsub(ignore_subscribe_messages=True) as pubsub:
                    async with asyncio.timeout(_SUBSCRIBE_TIMEOUT):
                        await pubsub.subscribe(channel)
                    while True:
                        message = await pubsub.get_message(timeout=_POLL_SECONDS)
                        if message:
                            await hear(message["data"])
            await asyncio.sleep(_RECONNECT_SECONDS)


async def _wake(wake: Callable[[UUID], Awaitable[None]], data: bytes) -> None:
    """One wake-up. Whatever goes wrong (the database is away), the next one must be heard."""
    try:
        await wake(UUID(data.decode()))
    except Exception as error:
        log.warning("a wake-up came to nothing (%s)", type(error).__name__, exc_info=True)
