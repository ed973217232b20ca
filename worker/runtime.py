"""What a worker process holds: the loop, the database, the drivers and the attempts in the air."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
from collections import deque
from collections.abc import Callable, Iterable
from contextvars import Context
from typing import ClassVar
from uuid import UUID

from shared import checkpoints
from shared.collector import calm_the_collector
from shared.config import Settings
from shared.db import Database, within
from shared.providers import Drivers
from shared.providers.catalog import catalog
from shared.wakeups import Wakeups
from worker.flights import Flights
from worker.hearing import database_answers, until_unheard
from worker.loop import LoopThread
from worker.objection import Objection
from worker.runner import Runner

log = logging.getLogger(__name__)

#: The exit code of a worker that hears nothing (EX_TEMPFAIL).
DEAF = 75
_LOOK_SECONDS = 0.1
_GOODBYE_SECONDS = 5.0


class Runtime:
    """One a process: started when Celery has set up, stopped when its pool has emptied."""

    _current: ClassVar[Runtime | None] = None

    def __init__(self, settings: Settings, *, name: str, queues: Iterable[str]) -> None:
        checkpoints.arm(settings.test_checkpoints)
        #: Attempts that the loop is to begin, and whether it knows of all of them.
        self._to_begin: deque[tuple[UUID, Callable[[str], None]]] = deque()
        self._begun = True
        self._running: set[asyncio.Task[None]] = set()
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

    def run_soon(self, job_id: UUID, ended: Callable[[str], None]) -> None:
        """Begins one attempt, from any thread; ``ended`` is called on the loop's with what became of it."""
        self._to_begin.append((job_id, ended))
        if self._begun:
            self._begun = False
            self._loop.call_soon(self._begin)

    def _begin(self) -> None:
        self._begun = True
        while self._to_begin:
            task = asyncio.create_task(self._run(*self._to_begin.popleft()), context=Context())
            self._running.add(task)  # the loop itself keeps no strong reference
            task.add_done_callback(self._running.discard)

    async def _run(self, job_id: UUID, ended: Callable[[str], None]) -> None:
        state = "failed"
        try:
            state = await self._runner.run(job_id)
        except Exception:
            log.exception("job %s: the attempt broke off; its lease runs out, and another begins", job_id)
        finally:
            ended(state)

    def drain(self) -> None:
        """The process was told to stop: from now on it only ends what it has. Called from a signal handler."""
        self._flights.draining = True

    def consumer_is_alive(self) -> None:
        self._flights.hearing.heard()

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
        calm_the_collector()
        self._background = [
            asyncio.create_task(self._flights.keep()),
            asyncio.create_task(Objection(self._database, settings, self._flights, owner).keep()),
            asyncio.create_task(self._end_when_deaf()),
            asyncio.create_task(self._end_when_stuck(settings)),
            asyncio.create_task(self._wakeups.listen_for_cancels(self._flights.wake)),
        ]

    async def _end_when_deaf(self) -> None:
        """Ends the process outright: the consumer's thread, which would do so in order, is the one that hangs.

        What is in the air is paid for and ends first.
        """
        await self._flights.hearing.until_deaf()
        log.error(
            "this worker is deaf: its consumer has been silent for %.0f s with the broker there. It ends, to be started "
            "again, as soon as its %d jobs under way have ended",
            self._flights.hearing.silence,
            len(self._flights),
        )
        self._flights.draining = True
        while len(self._flights):  # noqa: ASYNC110  at most once in the process's life
            await asyncio.sleep(_LOOK_SECONDS)
        with contextlib.suppress(Exception):
            await within(_GOODBYE_SECONDS, self._flights.say_goodbye())
        os._exit(DEAF)

    async def _end_when_stuck(self, settings: Settings) -> None:
        """Ends the process whose connections to the database lead nowhere: the driver would wait for ever.

        Nothing is waited for: its leases are over, and others have its jobs.
        """
        await until_unheard(lambda: self._flights.abandoned, lambda: database_answers(settings))
        log.error(
            "this worker's connections to the database hang, and new ones do not. It ends, to be started again"
        )
        os._exit(DEAF)

    async def _close(self) -> None:
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        with contextlib.suppress(Exception):
            await self._flights.say_goodbye()
        await self._drivers.aclose()
        await self._runner.close()
        await self._wakeups.close()
        await self._database.close()
