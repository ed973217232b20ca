"""Who waits in this process for news about a job or a project, and the one subscription that brings them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Iterator
from uuid import UUID

from shared.errors import Unavailable
from shared.wakeups import Change, Wakeups

#: Who has heard nothing for so long looks by itself.
LOOK_SECONDS = 3.0
_RETRY_SECONDS = 5


class Hub:
    """Rings the bells of those who wait. A bell says "look again" and nothing more: PostgreSQL has the news.

    Whoever hears nothing looks by itself every few seconds, so Redis being away costs time only.

    Args:
        limit: how many may wait at once.
    """

    def __init__(self, wakeups: Wakeups, limit: int) -> None:
        self._wakeups = wakeups
        self._limit = limit
        #: By the id of the job or of the project.
        self._bells: dict[UUID, set[asyncio.Event]] = {}
        self._listening: asyncio.Task[None] | None = None
        #: How many wait.
        self.waiting = 0
        #: The process is shutting down: everybody gets an answer now.
        self.closing = False

    def start(self) -> None:
        """Subscribes; to be called on the event loop that it will serve."""
        self._listening = asyncio.create_task(self._wakeups.listen_for_changes(self.ring))

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """One of the places for those who wait.

        Raises:
            Unavailable: all are taken.
        """
        if self.waiting >= self._limit:
            raise Unavailable(
                f"{self._limit:,} requests wait for jobs in this process, and no more may. Poll instead, or try "
                "again.",
                code="too_many_waiting",
                retry_after=_RETRY_SECONDS,
            )
        self.waiting += 1
        try:
            yield
        finally:
            self.waiting -= 1

    @contextlib.contextmanager
    def bell(self, subject: UUID) -> Iterator[asyncio.Event]:
        """Is set whenever the job, or something in the project, changes, and when the process shuts down."""
        event = asyncio.Event()
        self.add(subject, event)
        try:
            yield event
        finally:
            self.remove(subject, event)

    def add(self, subject: UUID, bell: asyncio.Event) -> None:
        if self.closing:
            bell.set()
        self._bells.setdefault(subject, set()).add(bell)

    def remove(self, subject: UUID, bell: asyncio.Event) -> None:
        bells = self._bells[subject]
        bells.discard(bell)
        if not bells:
            del self._bells[subject]

    def ring(self, changes: Iterable[Change]) -> None:
        if not self._bells:
            return
        for change in changes:
            for subject in change:
                for bell in self._bells.get(subject, ()):
                    bell.set()

    def close(self) -> None:
        """Answers everybody at once. May be called twice: by the server when it is told to stop, and at the end."""
        self.closing = True
        if self._listening is not None:
            self._listening.cancel()
        for bells in self._bells.values():
            for bell in bells:
                bell.set()


async def rung(bell: asyncio.Event, seconds: float) -> None:
    """Waits until the bell is rung, or for so long."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await bell.wait()
