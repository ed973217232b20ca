"""The Celery app, names of queues and tasks, and publishing. A message is a doorbell: it carries a job's id.

Losing a message, or getting it twice, costs time and nothing else: PostgreSQL knows what is to be
done, and the reconciler rings again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextvars import Context
from typing import ClassVar
from uuid import UUID

from celery import Celery
from kombu.entity import Exchange, Queue
from kombu.utils.scheduling import round_robin_cycle
from redis.asyncio import Redis

from shared.batched import batched
from shared.config import Settings
from shared.envelope import Envelope
from shared.outage import reason
from shared.packed import PackedCommands, packed

log = logging.getLogger(__name__)

PRIORITIES = ("interactive", "standard", "batch")
KIND_QUEUES = ("text", "image")
#: In the order in which workers look: every kind's interactive jobs, then standard, then batch.
ALL_QUEUES = tuple(f"{kind}.{priority}" for priority in PRIORITIES for kind in KIND_QUEUES)

#: The event loop's wait for a queue's next message is cut by nothing but these.
SOCKET_TIMEOUT = 5
SOCKET_CONNECT_TIMEOUT = 3
#: After a failed publish, how long the next ones don't try.
_REST_SECONDS = 2.0
_MESSAGES_AT_ONCE = 500
#: How long a worker waits for the job of a message that came ahead of it, seconds.
AHEAD_SECONDS = 2.0


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

    Celery and kombu make one message for each queue, over their in-memory transport; after that, each job's message is
    that one with its own ids in it, and a whole batch goes out in one round trip. To workers and Flower they are the same.
    """

    def __init__(self, settings: Settings) -> None:
        self._app = make_celery(settings)
        self._timeout = settings.publish_timeout
        self._redis: Redis = Redis.from_url(
            settings.redis_url.get_secret_value(),
            # Everything here has a time of its own; the driver's would be a task for each write and a quarter of the cost.
            socket_timeout=None,
            socket_connect_timeout=SOCKET_CONNECT_TIMEOUT,
            socket_keepalive=True,
            health_check_interval=10,
        )
        self._packed = PackedCommands(self._redis)
        self._envelopes: dict[str, Envelope] = {}
        self._rests_until = 0.0

    @property
    def resting(self) -> bool:
        """The broker failed a moment ago and is not tried yet."""
        return time.monotonic() < self._rests_until

    async def ring(self, jobs: Iterable[tuple[UUID, str]]) -> list[UUID]:
        """Sends messages about jobs, by id and queue; answers the ids of those not known to be sent within the timeout."""
        unsent: list[UUID] = []
        for batch in batched(jobs, _MESSAGES_AT_ONCE):
            if not await self._send(batch):
                unsent += [job_id for job_id, _ in batch]
        return unsent

    def ring_ahead(self, jobs: Sequence[tuple[UUID, str]]) -> RingAhead:
        """Begins to send messages about jobs that are being stored; see ``RingAhead``."""
        return RingAhead(self, jobs)

    async def depths(self, queues: Sequence[str]) -> dict[str, int]:
        """How many messages lie in each queue.

        Raises:
            Exception: the broker is away.
        """
        async with asyncio.timeout(SOCKET_TIMEOUT), self._redis.pipeline(transaction=False) as pipe:
            for queue in queues:
                pipe.llen(queue)
            return dict(zip(queues, await pipe.execute(), strict=True))

    async def close(self) -> None:
        await self._packed.close()
        await self._redis.aclose()

    async def _send(self, jobs: Sequence[tuple[UUID, str]]) -> bool:
        if self.resting:
            return False
        try:
            by_queue: defaultdict[str, list[bytes]] = defaultdict(list)
            for job_id, queue in jobs:
                by_queue[queue].append(self._envelope(queue).addressed(job_id))
            async with asyncio.timeout(self._timeout):
                await self._packed.send(
                    [packed(b"LPUSH", (queue.encode(), *messages)) for queue, messages in by_queue.items()]
                )
        except Exception as error:  # noqa: BLE001  whatever the broker's client raises: the reconciler rings again
            log.warning(
                "%d jobs could not be published now (%s); those that are stored will be",
                len(jobs),
                reason(error),
            )
            # A broker that hangs would cost every submit the whole timeout, one after the other.
            self._rests_until = time.monotonic() + _REST_SECONDS
            return False
        return True

    def _envelope(self, queue: str) -> Envelope:
        if queue not in self._envelopes:
            self._envelopes[queue] = Envelope(self._app, queue)
        return self._envelopes[queue]


class RingAhead:
    """Messages that are sent while their jobs are stored: the way to a worker takes as long as the commit.

    A worker that is faster waits for the job, for ``AHEAD_SECONDS``; so where storing takes long, it is rung again.
    """

    def __init__(self, doorbell: Doorbell, jobs: Sequence[tuple[UUID, str]]) -> None:
        self._doorbell = doorbell
        self._jobs = jobs
        self._began = time.monotonic()
        self._ringing = asyncio.create_task(doorbell.ring(jobs), context=Context())

    async def leaves(self) -> None:
        """Returns when they are on their way: PostgreSQL, once woken, takes the core for as long as it stores the jobs."""
        await asyncio.sleep(0)

    async def stored(self) -> list[UUID]:
        """To be called when the jobs are there. Answers the ids of those whose messages are not known to be sent."""
        unsent = await self._ringing
        if time.monotonic() - self._began < AHEAD_SECONDS / 4:
            return unsent
        return await self._doorbell.ring(self._jobs)

    def call_off(self) -> None:
        """The jobs were not stored."""
        self._ringing.cancel()
