"""kombu's Redis transport, with one difference: a message that makes no sense is dropped, and the worker goes on.

Left to itself kombu lets the error through to Celery, which then ends the whole worker; with a
handful of such messages in a queue, every worker. Unknown tasks and the like are Celery's business.
"""

from __future__ import annotations

import logging
from typing import Any

from kombu.transport import TRANSPORT_ALIASES, redis

log = logging.getLogger(__name__)

#: What a message of the wrong shape raises where it is handed on.
_WRONG_SHAPE = (ValueError, TypeError, KeyError, AttributeError)


class Channel(redis.Channel):
    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)
        except ValueError:
            # No JSON, or no UTF-8. Whatever else is wrong is the connection's, and goes through.
            log.exception("a message that is not JSON was dropped")
            return True


class Transport(redis.Transport):
    Channel = Channel

    def _deliver(self, message: Any, queue: str) -> None:
        try:
            super()._deliver(message, queue)
        except _WRONG_SHAPE:
            log.exception("%s: a message that makes no sense was dropped", queue)


def install() -> None:
    """From now on this is what ``redis://`` means to Celery."""
    TRANSPORT_ALIASES["redis"] = TRANSPORT_ALIASES["rediss"] = f"{__name__}:Transport"
