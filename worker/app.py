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


class SignsOfLife(bootsteps.StartStopStep):
    """The consumer shows that it is not deaf, and how many messages it could take at once."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        self._timer: Any = None
        super().__init__(consumer, **kwargs)

    def start(self, consumer: Any) -> None:
        self._timer = consumer.hub.call_repeatedly(_CONSUMER_TICK, Runtime.current().consumer_is_alive)
        consumer.task_consumer.channel.free_slots = lambda: (
            consumer.pool.num_processes - len(state.reserved_requests)
        )

    def stop(self, consumer: Any) -> None:  # noqa: ARG002
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


app.steps["consumer"].add(SignsOfLife)


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
