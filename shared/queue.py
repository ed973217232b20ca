"""The Celery app, names of queues and tasks, and publishing. A message is a doorbell: it carries a job's id.

Losing a message, or getting it twice, costs time and nothing else: PostgreSQL knows what is to be
done, and the reconciler rings again.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar
from uuid import UUID

from celery import Celery
from kombu.entity import Exchange, Queue
from kombu.utils.scheduling import round_robin_cycle

from shared.coalesce import Coalescer
from shared.config import Settings
from shared.outage import reason

log = logging.getLogger(__name__)

#: Named outright, so that moving a module orphans no message.
RUN_JOB = "plantain.jobs.run"

PRIORITIES = ("interactive", "standard", "batch")
KIND_QUEUES = ("text", "image")
#: In the order in which workers look: every kind's interactive jobs, then standard, then batch.
ALL_QUEUES = tuple(f"{kind}.{priority}" for priority in PRIORITIES for kind in KIND_QUEUES)

#: The event loop's wait for a queue's next message is cut by nothing but these.
SOCKET_TIMEOUT = 5
SOCKET_CONNECT_TIMEOUT = 3
#: After a failed publish, how long the next ones don't try.
_REST_SECONDS = 2.0


def queue_name(kind_queue: str, priority: str) -> str:
    return f"{kind_queue}.{priority}"


class PriorityCycle(round_robin_cycle):
    """Consumes by priority; among queues of one priority, the one served last comes last."""

    _ranks: ClassVar[dict[str, int]] = {name: rank for rank, name in enumerate(PRIORITIES)}

    def consume(self, n: int) -> list[str]:
        return sorted(self.items[:n], key=self._rank)

    def _rank(self, queue: str) -> int:
        return self._ranks.get(queue.rpartition(".")[2], len(self._ranks))


def make_celery(settings: Settings) -> Celery:
    """The Celery app with the settings that the reliability of the design rests on.

    Why each, see docs/decisions/0001: no unacked copies in Redis, no visibility timeout, no
    redelivery, no result backend, no ETA or countdown, timeouts on every socket.
    """
    app = Celery("plantain")
    app.conf.update(
        broker_url=settings.redis_url.get_secret_value(),
        broker_transport_options={
            "ack_emulation": False,
            "socket_timeout": SOCKET_TIMEOUT,
            "socket_connect_timeout": SOCKET_CONNECT_TIMEOUT,
            "socket_keepalive": True,
            # Also how often the consumer looks whether an answer is overdue: a connection that leads
            # nowhere is given up after twice this and a second. Twice the default would be 51 s.
            "health_check_interval": 5,
            "max_connections": 50,
            "queue_order_strategy": "shared.queue:PriorityCycle",
        },
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_pool_limit=20,  # Flower asks workers ten things at once, and holds a connection for each
        broker_pool_acquire_timeout=2,
        task_publish_retry=False,
        task_acks_late=False,
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        result_backend=None,
        accept_content=["json"],
        task_serializer="json",
        task_queues=[Queue(name, Exchange(name), routing_key=name) for name in ALL_QUEUES],
        task_default_queue=ALL_QUEUES[2],
        task_create_missing_queues=False,
        task_send_sent_event=False,
        worker_disable_prefetch=True,
        worker_prefetch_multiplier=1,
        worker_send_task_events=True,
        worker_hijack_root_logger=False,
        worker_enable_remote_control=True,
        enable_utc=True,
        timezone="UTC",
    )
    return app


class Doorbell:
    """Tells workers about jobs, from an event loop. Never raises: a message that was not sent is not an error.

    kombu is synchronous and a broker may hang for seconds, so one thread does the sending, with one
    producer held open; while it sends, further ids gather and go out in one pipeline.
    """

    def __init__(self, settings: Settings) -> None:
        self._app = make_celery(settings)
        self._timeout = settings.publish_timeout
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="doorbell")
        self._connection: Any = None
        self._producer: Any = None
        self._rests_until = 0.0
        self._send: Coalescer[tuple[UUID, str], bool] = Coalescer(self._send_batch, max_batch=500)

    async def ring(self, job_id: UUID, queue: str) -> bool:
        """Sends one message. False: not sent, or not known to be within the timeout."""
        if self.resting:
            return False
        # The send goes on where the wait ends: a late message is harmless.
        sending = asyncio.ensure_future(self._send((job_id, queue)))
        sending.add_done_callback(_retrieve)
        done, _ = await asyncio.wait({sending}, timeout=self._timeout)
        if not done:
            # A broker that hangs would cost every submit the whole timeout, one after the other.
            self._rests_until = time.monotonic() + _REST_SECONDS
        return bool(done) and not sending.cancelled() and sending.exception() is None and sending.result()

    @property
    def resting(self) -> bool:
        """The broker failed a moment ago and is not tried yet."""
        return time.monotonic() < self._rests_until

    async def ring_all(self, jobs: Iterable[tuple[UUID, str]]) -> list[UUID]:
        """Sends many messages and answers the ids of those that were not sent."""
        unsent: list[UUID] = []
        for batch in _batched(jobs, 500):
            results = await self._send_batch(batch)
            unsent += [job_id for (job_id, _), sent in zip(batch, results, strict=True) if not sent]
        return unsent

    async def depths(self, queues: Sequence[str]) -> dict[str, int]:
        """How many messages lie in each queue.

        Raises:
            Exception: the broker is away.
        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._depths, list(queues))

    async def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _send_batch(self, jobs: Sequence[tuple[UUID, str]]) -> Sequence[bool]:
        if self.resting:
            return [False] * len(jobs)
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._publish, jobs)

    def _publish(self, jobs: Sequence[tuple[UUID, str]]) -> list[bool]:
        try:
            producer = self._held_producer()
            with producer.batch(max_size=len(jobs) + 1):
                for job_id, queue in jobs:
                    # The job's id is the task's id, so that Flower shows it under the name the client knows.
                    self._app.send_task(
                        RUN_JOB,
                        args=(str(job_id),),
                        task_id=str(job_id),
                        queue=queue,
                        producer=producer,
                        ignore_result=True,
                        retry=False,
                    )
        except Exception as error:  # noqa: BLE001  whatever the broker's client raises: the reconciler rings again
            log.warning("%d jobs could not be published now (%s); they will be", len(jobs), reason(error))
            self._drop_connection()
            self._rests_until = time.monotonic() + _REST_SECONDS
            return [False] * len(jobs)
        return [True] * len(jobs)

    def _depths(self, queues: list[str]) -> dict[str, int]:
        try:
            client = self._held_producer().channel.client
            with client.pipeline(transaction=False) as pipe:
                for queue in queues:
                    pipe.llen(queue)
                return dict(zip(queues, pipe.execute(), strict=True))
        except Exception:
            self._drop_connection()
            raise

    def _held_producer(self) -> Any:
        if self._producer is None:
            # Left to itself kombu goes on trying to connect for six seconds, in which nothing else is sent.
            self._connection = self._app.connection_for_write(transport_options={"max_retries": 0})
            self._producer = self._app.amqp.Producer(self._connection, auto_declare=False)
        return self._producer

    def _drop_connection(self) -> None:
        connection, self._connection, self._producer = self._connection, None, None
        if connection is not None:
            try:
                connection.release()
            except Exception:
                log.debug("closing a broken broker connection", exc_info=True)


def _batched(jobs: Iterable[tuple[UUID, str]], size: int) -> Iterable[tuple[tuple[UUID, str], ...]]:
    iterator = iter(jobs)
    while batch := tuple(itertools.islice(iterator, size)):
        yield batch


def _retrieve(future: asyncio.Future[bool]) -> None:
    """Marks an exception as seen, where nobody waited long enough for it."""
    if not future.cancelled():
        future.exception()
