"""Passes text on as it is made (see ``shared/deltas.py``). It costs the job nothing, wherever Redis may be."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from contextvars import Context
from typing import Any
from uuid import UUID

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import RedisError

from shared.deltas import MAX_DELTA_CHARS, MAX_KEPT_BYTES, Delta, channel_of, key_of
from shared.outage import Outage

log = logging.getLogger(__name__)

#: Between two messages. The first piece after a pause goes out at once, those that come meanwhile go out together.
INTERVAL_SECONDS = 0.02
_PATIENCE_SECONDS = 1.0
#: After a message that could not be sent, how long none are tried.
_REST_SECONDS = 2.0


class LiveText:
    """The text of one attempt as far as it is made, and how far it was passed on."""

    __slots__ = (
        "_attempt",
        "_channel",
        "_keeps",
        "_kept_bytes",
        "_key",
        "_length",
        "_new",
        "_old",
        "_sender",
        "_ttl",
        "ended",
    )

    def __init__(self, sender: DeltaSender, job_id: UUID, attempt: int, ttl: float) -> None:
        self._sender = sender
        self._attempt = attempt
        self._channel, self._key = channel_of(job_id), key_of(job_id, attempt)
        self._ttl = max(1, round(ttl))
        #: What was passed on, and its characters; what was not.
        self._old: list[str] = []
        self._length = 0
        self._new: list[str] = []
        #: What lies under the key; None where that is not certain. And whether the message under way adds to it.
        self._kept_bytes: int | None = None
        self._keeps = False
        self.ended = False

    def add(self, piece: str) -> None:
        """Takes the next piece; for ``Call.on_text``."""
        self._new.append(piece)
        self._sender.has_news(self)

    def end(self) -> None:
        """The attempt is over and recorded: from now on PostgreSQL says what there is to say."""
        self.ended = True
        if self._old or self._new:
            self._sender.has_news(self)

    def pass_on(self, pipe: Pipeline) -> int:
        """Puts its commands into the pipeline and answers how many; ``passed_on`` must be told of their results."""
        if not self._new:
            self._keeps = False
            pipe.unlink(self._key)
            return 1
        piece = "".join(self._new)
        delta = Delta(self._attempt, self._length, piece).after(self._length + len(piece) - MAX_DELTA_CHARS)
        self._old.append(piece)
        self._length += len(piece)
        self._new.clear()
        commands = self._keep(pipe, piece) + 1
        pipe.publish(self._channel, delta.pack())
        if self.ended:
            pipe.unlink(self._key)
            commands += 1
        return commands

    def passed_on(self, results: Sequence[Any]) -> None:
        """What Redis answered; without results, nobody knows what it did."""
        if not self._keeps:
            return
        if results and isinstance(results[0], Exception):
            self._kept_bytes = MAX_KEPT_BYTES  # it has no room, most likely: the pieces must do
        elif not results or results[0] not in (True, self._kept_bytes):
            self._kept_bytes = None

    def _keep(self, pipe: Pipeline, piece: str) -> int:
        """SET answers True, APPEND the length that it came to."""
        self._keeps = self._kept_bytes is None or self._kept_bytes < MAX_KEPT_BYTES
        if self._kept_bytes is None:
            whole = "".join(self._old).encode()[:MAX_KEPT_BYTES]
            self._kept_bytes = len(whole)
            pipe.set(self._key, whole, ex=self._ttl)
            return 1
        if not self._keeps:
            return 0
        data = piece.encode()[: MAX_KEPT_BYTES - self._kept_bytes]
        self._kept_bytes += len(data)
        pipe.append(self._key, data)
        # In case that it was gone: appended to, it would have been made anew, and for ever.
        pipe.expire(self._key, self._ttl)
        return 2


class DeltaSender:
    """One a process: the pieces of all its attempts share messages."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._outage = Outage(log, "Redis, for text as it is made,")
        self._news: dict[LiveText, None] = {}
        self._sending: asyncio.Task[None] | None = None
        self._rests_until = float("-inf")

    def open(self, job_id: UUID, attempt: int, ttl: float) -> LiveText:
        """For the text of an attempt. What is kept of it is gone after ``ttl`` seconds without a new piece."""
        return LiveText(self, job_id, attempt, ttl)

    def has_news(self, text: LiveText) -> None:
        # What is not sent now goes with the next piece; where there is none, the result has it.
        if time.monotonic() < self._rests_until:
            return
        self._news[text] = None
        if self._sending is None:
            self._sending = asyncio.create_task(self._send(), context=Context())

    async def close(self) -> None:
        """Sends what waits to be sent."""
        if self._sending is not None:
            await asyncio.wait({self._sending}, timeout=_PATIENCE_SECONDS)

    async def _send(self) -> None:
        texts: list[LiveText] = []
        try:
            while self._news:
                texts, self._news = list(self._news), {}
                await self._pass_on(texts)
                self._outage.went_well()
                await asyncio.sleep(INTERVAL_SECONDS)
        except (RedisError, OSError, TimeoutError) as error:
            self._news = {}
            self._rests_until = time.monotonic() + _REST_SECONDS
            self._outage.failed(error)
        finally:
            self._sending = None

    async def _pass_on(self, texts: Sequence[LiveText]) -> None:
        results: list[Any] = []
        pipe = self._redis.pipeline(transaction=False)
        counts = [text.pass_on(pipe) for text in texts]
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS), pipe:
                results = await pipe.execute(raise_on_error=False)
        finally:
            start = 0
            for text, count in zip(texts, counts, strict=True):
                text.passed_on(results[start : start + count])
                start += count
