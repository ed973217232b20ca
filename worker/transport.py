"""kombu's Redis transport, with two differences.

It takes as many messages at once as the worker has free slots (BLMPOP), instead of one a round trip. And a message that
makes no sense is dropped, and the worker goes on: left to itself kombu lets the error through to Celery, which then ends
the whole worker; with a handful of such messages in a queue, every worker. Unknown tasks and the like are Celery's business.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic
from typing import Any

from kombu.transport import TRANSPORT_ALIASES, redis
from kombu.transport.virtual import Empty
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import loads
from redis.exceptions import NoPermissionError, ResponseError

log = logging.getLogger(__name__)

#: What a message of the wrong shape raises where it is handed on.
_WRONG_SHAPE = (ValueError, TypeError, KeyError, AttributeError, RecursionError)
#: Messages at once at most: between two batches the consumer looks at everything else.
_MOST_AT_ONCE = 100


def _one() -> int:
    return 1


class Channel(redis.Channel):
    #: How many messages may be taken now; the worker sets it (``worker.app``).
    free_slots: Callable[[], int] = staticmethod(_one)
    #: Redis before 7.0 has no BLMPOP.
    _pops_many = True

    def _brpop_start(self, timeout: float | None = None) -> None:
        wanted = min(self.free_slots(), _MOST_AT_ONCE)
        queues = self._queue_cycle.consume(len(self.active_queues))
        if wanted < 2 or not self._pops_many or not queues:
            self._popping_many = False
            super()._brpop_start(timeout)
            return
        keys = [self._q_for_pri(queue, priority) for priority in self.priority_steps for queue in queues]
        # As kombu's own: what it has noted of a blocking pop under way is how it sees a broker that has gone silent.
        self._in_poll = self.client.connection
        self._brpop_sent_at = monotonic()  # type: ignore[assignment]
        self._popping_many = True
        command = ["BLMPOP", timeout or self.brpop_timeout or 0, len(keys), *keys, "RIGHT", "COUNT", wanted]
        self.client.connection.send_command(*command)

    def _brpop_read(self, **options: Any) -> Any:
        if not self._popping_many:
            return self._read_one(**options)
        try:
            try:
                popped = self.client.parse_response(self.client.connection, "BLMPOP", **options)
            except ResponseError as error:
                if "unknown command" not in str(error) and not isinstance(error, NoPermissionError):
                    raise
                log.warning("BLMPOP cannot be used here (%s): messages are taken one by one", error)
                type(self)._pops_many = False  # noqa: SLF001  for all channels
                raise Empty from None
            except self.connection_errors:
                # The next turn of the hub connects again.
                self.client.connection.disconnect()
                raise
        finally:
            self._in_poll = None  # type: ignore[assignment]
            self._flush_brpop_reauth()
        if not popped:
            raise Empty
        key, messages = popped
        queue = bytes_to_str(key).rsplit(self.sep, 1)[0]
        self._queue_cycle.rotate(queue)
        for message in messages:
            try:
                payload = loads(bytes_to_str(message))
            except (ValueError, RecursionError):
                log.exception("a message that is not JSON was dropped")
            else:
                self.connection._deliver(payload, queue)  # noqa: SLF001  as kombu does
        return True

    def _read_one(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)
        except (ValueError, RecursionError):
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
