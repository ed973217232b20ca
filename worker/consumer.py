"""Celery's consumer, with one difference: it looks for a lost broker every two seconds, however long it is away.

Celery waits two seconds more after each try, up to thirty: after an outage of some minutes, workers
would stand idle for half a minute with the broker back.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from celery.worker.consumer import Consumer as CeleryConsumer

_RETRY_SECONDS = 2


class Consumer(CeleryConsumer):
    """Named by the setting ``worker_consumer``."""

    def ensure_connected(self, conn: Any) -> Any:
        conn.ensure_connection = partial(conn.ensure_connection, interval_max=_RETRY_SECONDS)
        return super().ensure_connected(conn)
