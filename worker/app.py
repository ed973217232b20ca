"""Celery's entry point: ``celery -A worker.app worker|beat|flower``.

Its one task runs on ``worker.pool``, as a coroutine on the process's one event loop.
"""

from __future__ import annotations

from typing import Any

from celery import bootsteps, signals
from celery.utils.log import get_logger
from celery.worker import state

from shared.logging import setup_logging
from shared.queue import make_celery
from worker import transport
from worker.runtime import Runtime
from worker.settings import checked_settings

transport.install()
settings = checked_settings()
app = make_celery(settings)
app.conf.update(
    beat_scheduler="worker.beat:MaintenanceScheduler",
    beat_max_loop_interval=1,
    include=["worker.tasks.jobs"],
    worker_consumer="worker.consumer:Consumer",
    worker_pool="worker.pool:LoopPool",
)

#: How often the consumer shows that it is alive, seconds.
_CONSUMER_TICK = 5.0
#: How often events for Flower are sent, seconds, and how many are kept until then.
_EVENTS_TICK = 0.1
_EVENTS_AT_ONCE = 1000


class ConsumerStep(bootsteps.StartStopStep):
    """Shows that the consumer is not deaf, tells it how many messages it may take, and sends its events in bundles."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        self._timers: list[Any] = []
        super().__init__(consumer, **kwargs)

    def start(self, consumer: Any) -> None:
        consumer.task_consumer.channel.free_slots = lambda: (
            consumer.pool.num_processes - len(state.reserved_requests)
        )
        events = consumer.event_dispatcher
        # Left alone it sends whatever there is on each turn of the hub, or 24 events: half of the consumer's time.
        events.on_send_buffered = None
        events.buffer_limit = _EVENTS_AT_ONCE
        self._timers = [
            consumer.hub.call_repeatedly(_CONSUMER_TICK, Runtime.current().consumer_is_alive),
            consumer.hub.call_repeatedly(_EVENTS_TICK, events.flush),
        ]

    def stop(self, consumer: Any) -> None:  # noqa: ARG002
        for timer in self._timers:
            timer.cancel()
        self._timers = []


app.steps["consumer"].add(ConsumerStep)


@signals.setup_logging.connect
@signals.import_modules.connect  # Flower sends the other one never, and sets up a log of its own before this one
def _setup_logging(**_: Any) -> None:
    setup_logging(settings)
    # One line a message would cost more than the message; the runner writes one line an attempt.
    for name in ("celery.worker.strategy", "celery.app.trace"):
        get_logger(name).setLevel("WARNING")


@signals.celeryd_after_setup.connect
def _start_runtime(sender: str, instance: Any, **_: Any) -> None:
    queues = list(instance.app.amqp.queues.consume_from)
    Runtime.start(settings, name=sender, queues=queues)


@signals.worker_shutting_down.connect
def _drain_runtime(**_: Any) -> None:
    Runtime.current().drain()


@signals.worker_shutdown.connect
def _stop_runtime(**_: Any) -> None:
    Runtime.stop_current()
