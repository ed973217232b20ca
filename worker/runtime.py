"""What a worker process holds: the loop, the database, the drivers and the attempts in the air."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Iterable
from typing import ClassVar
from uuid import UUID

from shared import checkpoints
from shared.config import Settings
from shared.db import Database
from shared.providers import Drivers
from shared.providers.catalog import catalog
from shared.wakeups import Wakeups
from worker.flights import Flights
from worker.loop import LoopThread
from worker.runner import Runner

log = logging.getLogger(__name__)


class Runtime:
    """One a process: started when Celery has set up, stopped when its pool has emptied."""

    _current: ClassVar[Runtime | None] = None

    def __init__(self, settings: Settings, *, name: str, queues: Iterable[str]) -> None:
        checkpoints.arm(settings.test_checkpoints)
        self._loop = LoopThread()
        self._loop.run(self._open(settings, name, list(queues)))

    @classmethod
    def start(cls, settings: Settings, *, name: str, queues: Iterable[str]) -> None:
        cls._current = cls(settings, name=name, queues=queues)

    @classmethod
    def current(cls) -> Runtime:
        assert cls._current is not None, "the worker has not started"
        return cls._current

    @classmethod
    def stop_current(cls) -> None:
        runtime, cls._current = cls._current, None
        if runtime is not None:
            runtime.stop()

    def run_job(self, job_id: UUID) -> str:
        """Runs one attempt and waits for its end; called from the pool's threads."""
        return self._loop.run(self._runner.run(job_id))

    def drain(self) -> None:
        """The process was told to stop: from now on it only ends what it has. Called from a signal handler."""
        self._flights.draining = True

    def consumer_is_alive(self) -> None:
        self._flights.consumer_seen = time.monotonic()

    def stop(self) -> None:
        self._loop.run(self._close())
        self._loop.stop()

    async def _open(self, settings: Settings, name: str, queues: list[str]) -> None:
        self._database = Database(settings, application=name)
        self._drivers = Drivers(settings)
        # Importing an SDK takes up to a second, in which no lease would be renewed: now, while there is none.
        for model in catalog().values():
            self._drivers.get(model)
        self._wakeups = Wakeups(settings)
        self._flights = Flights(self._database, settings, name, queues)
        # A worker that comes back under its old name must not be taken for the one that died.
        owner = f"{name}#{secrets.token_hex(3)}"
        self._runner = Runner(self._database, settings, self._drivers, self._flights, self._wakeups, owner)
        self._background = [
            asyncio.create_task(self._flights.keep()),
            asyncio.create_task(self._wakeups.listen_for_cancels(self._flights.wake)),
        ]

    async def _close(self) -> None:
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        with contextlib.suppress(Exception):
            await self._flights.say_goodbye()
        await self._drivers.aclose()
        await self._wakeups.close()
        await self._database.close()
