"""kombu's Redis transport, with one difference: a message that makes no sense is dropped, and the worker goes on.

Left to itself kombu lets the error through to Celery, which then ends the whole worker; with a
handful of such messages in a queue, every worker. Unknown tasks and the like are Celery's business.
"""

from __future__ import annotations

import logging
from typing import Any

from kombu.transport import TRANSPORT_ALIASES, redis

log = logging.getLogger(__name__)

#: What reading garbage raises; the broker's own errors are others, and go through.
_MAKES_NO_SENSE = (ValueError, TypeError, KeyError, AttributeError)


class Channel(redis.Channel):
    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)
        except _MAKES_NO_SENSE as error:
            log.exception("a message that makes no sense was dropped (%s)", type(error).__name__)
            return True


class Transport(redis.Transport):
    Channel = Channel


def install() -> None:
    """From now on this is what ``redis://`` means to Celery."""
    TRANSPORT_ALIASES["redis"] = TRANSPORT_ALIASES["rediss"] = f"{__name__}:Transport"
