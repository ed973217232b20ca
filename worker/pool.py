"""Celery's pool for work that waits: no thread a job, only a task on the process's event loop.

Celery's consumer lives in the main thread, the loop in its own. What one has for the other goes through a deque, and the
other is woken once however much lies in it, so that under load a turn of either handles many jobs.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from threading import Condition
from typing import Any, ClassVar
from uuid import UUID

from billiard.einfo import ExceptionInfo
from celery.concurrency.base import BasePool
from celery.utils.log import get_logger

from worker.runtime import Runtime

log = get_logger(__name__)

#: What Celery wants to hear when a task has ended: whether it failed, its result or exception, and its seconds.
Callback = Callable[[tuple[int, Any, float]], None]


class JobFailed(Exception):
    """Shows a failed job as failed in Flower; the job itself says why."""


class LoopPool(BasePool):  # type: ignore[misc]  # Celery has no types
    """Named by the setting ``worker_pool``. Runs the one task that there is: a job's next attempt, by the task's id."""

    body_can_be_buffer: ClassVar[bool] = True
    signal_safe: ClassVar[bool] = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._hub: Any = None
        #: Jobs that ended and Celery has not been told of: callback, what became of it, seconds.
        self._ended: deque[tuple[Callback, str, str, float]] = deque()
        self._told = True
        self._under_way = 0
        self._changed = Condition()

    def register_with_event_loop(self, loop: Any) -> None:
        self._hub = loop

    def on_apply(
        self,
        target: Any,  # noqa: ARG002  Celery's tracer, which would decode, log and time once more what is known here
        args: tuple[Any, ...],
        kwargs: Any = None,  # noqa: ARG002
        callback: Callback | None = None,
        accept_callback: Callable[[int, float], None] | None = None,
        **_: Any,
    ) -> None:
        job_id: str = args[1]
        began = time.monotonic()
        if accept_callback:
            accept_callback(os.getpid(), began)
        self._under_way += 1
        try:
            found = UUID(job_id)
        except (ValueError, AttributeError, TypeError):
            log.warning("a message about %.100r was dropped: that is no job's id", job_id)
            self._end(callback, job_id, "failed", 0.0)
            return
        Runtime.current().run_soon(
            found, lambda state: self._end(callback, job_id, state, time.monotonic() - began)
        )

    def on_stop(self) -> None:
        """Waits until every job has ended: Celery's warm shutdown."""
        while self._under_way:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._ended), timeout=1)
            self._tell()

    @property
    def num_processes(self) -> int:
        return int(self.limit)

    def _end(self, callback: Callback | None, job_id: str, state: str, seconds: float) -> None:
        """On the loop's thread: leaves word for the consumer's."""
        self._ended.append((callback or _nobody, job_id, state, seconds))
        if self._told:
            self._told = False
            self._hub.call_soon(self._tell)
        with self._changed:
            self._changed.notify()

    def _tell(self) -> None:
        """On the consumer's thread: tells Celery of every job that has ended."""
        self._told = True
        while self._ended:
            callback, job_id, state, seconds = self._ended.popleft()
            self._under_way -= 1
            try:
                callback(_outcome(job_id, state, seconds))
            except Exception:
                log.exception("Celery could not be told of the end of %s", job_id)


def _nobody(_: tuple[int, Any, float]) -> None:
    """Where Celery does not want to know."""


def _outcome(job_id: str, state: str, seconds: float) -> tuple[int, Any, float]:
    if state != "failed":
        return 0, repr(state), seconds
    try:
        raise JobFailed(job_id)
    except JobFailed:
        return 1, ExceptionInfo(), seconds
