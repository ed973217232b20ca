"""Celery's entry point: ``celery -A worker.app worker|beat|flower``.

Tasks run on the stock ``threads`` pool; each hands its coroutine to the process's one event loop.
"""

from __future__ import annotations

from typing import Any

from celery import bootsteps, signals
from celery.utils.log import get_logger

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
)

#: How often the consumer shows that it is alive, seconds.
_CONSUMER_TICK = 5.0
#: How often a full worker looks whether a slot has become free, seconds.
_SLOT_TICK = 0.02


class ConsumerTicks(bootsteps.StartStopStep):
    """Keeps the consumer awake: it notices free slots at once, and shows that it is not deaf.

    With ``worker_disable_prefetch`` a full worker stops asking for messages, and only the next turn
    of its hub asks again; without anything else to do that turn comes about once a second.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        self._timers: list[Any] = []
        super().__init__(consumer, **kwargs)

    def start(self, consumer: Any) -> None:
        runtime = Runtime.current()
        self._timers = [
            consumer.hub.call_repeatedly(_SLOT_TICK, lambda: None),
            consumer.hub.call_repeatedly(_CONSUMER_TICK, runtime.consumer_is_alive),
        ]

    def stop(self, consumer: Any) -> None:  # noqa: ARG002
        for timer in self._timers:
            timer.cancel()
        self._timers = []


app.steps["consumer"].add(ConsumerTicks)


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
