"""Whether this worker still hears the broker and the database. One that does not ends, and its supervisor starts another.

Most sockets have a timeout, and the consumer looks for a lost broker every two seconds; this is for what they do not
see, such as a connection that trickles, or one that swallows everything. While the other side is away for everybody no
worker ends: a new process would hear no more.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import psycopg
from redis.asyncio import Redis
from redis.exceptions import RedisError

from shared.config import Settings
from shared.queue import SOCKET_CONNECT_TIMEOUT

#: How long the consumer may be silent before the process no longer calls itself well.
SILENCE_SECONDS = 30.0
#: How long the broker must have answered others meanwhile: after an outage the consumer gets the time to find it.
_PATIENCE_SECONDS = 20.0
_LOOK_SECONDS = 2.0
_PING_SECONDS = 2.0


class Hearing:
    """One a process; ``heard`` is called by the consumer's own timer, from its thread."""

    def __init__(self, settings: Settings) -> None:
        self._url = settings.redis_url.get_secret_value()
        self._heard = time.monotonic()

    def heard(self) -> None:
        """The consumer goes round."""
        self._heard = time.monotonic()

    @property
    def silence(self) -> float:
        """Seconds since the consumer's last sign of life."""
        return time.monotonic() - self._heard

    async def until_deaf(self) -> None:
        """Returns when the consumer has long been silent though the broker is there."""
        await until_unheard(lambda: self.silence > SILENCE_SECONDS, self._broker_answers)

    async def _broker_answers(self) -> bool:
        """On a new connection: those that there are may be what is wrong."""
        redis = Redis.from_url(self._url, socket_connect_timeout=SOCKET_CONNECT_TIMEOUT)
        try:
            async with asyncio.timeout(_PING_SECONDS), redis:
                await redis.ping()
        except (RedisError, OSError, TimeoutError):
            return False
        return True


async def until_unheard(silent: Callable[[], bool], answers: Callable[[], Awaitable[bool]]) -> None:
    """Returns when it has been silent for long while the other side answered every new connection."""
    answers_since: float | None = None
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        if not silent() or not await answers():
            answers_since = None
            continue
        answers_since = answers_since or time.monotonic()
        if time.monotonic() - answers_since > _PATIENCE_SECONDS:
            return


async def database_answers(settings: Settings) -> bool:
    """On a new connection."""
    try:
        url = settings.sqlalchemy_url.replace("postgresql+psycopg://", "postgresql://", 1)
        connection = await psycopg.AsyncConnection.connect(url, connect_timeout=round(_PING_SECONDS))
    except (psycopg.Error, OSError):
        return False
    await connection.close()
    return True
