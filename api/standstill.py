"""Cuts connections whose clients take nothing of what is sent to them.

TCP itself waits for ever for a client that is there and does not read: what was made for it stays in memory, an answer
in the middle of its body stays under way. One look at all connections every few seconds costs no request anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import sys
import termios
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from api.protocol import LimitedProtocol

log = logging.getLogger(__name__)

#: So many looks in a row. Counted, not timed: a process that stood still itself must not blame its clients.
_LOOKS = 6


class _Seen(NamedTuple):
    """What was found at the last look: bytes not yet taken, how often the client had caught up, looks without a change."""

    left: int
    resumed: int
    looks: int


class Standstill:
    """The connections of one process; ``patience`` is in seconds."""

    def __init__(self, patience: float) -> None:
        self._seconds = patience / _LOOKS
        self._connections: set[LimitedProtocol] = set()
        self._seen: dict[LimitedProtocol, _Seen] = {}

    def add(self, connection: LimitedProtocol) -> None:
        self._connections.add(connection)

    def discard(self, connection: LimitedProtocol) -> None:
        self._connections.discard(connection)
        self._seen.pop(connection, None)

    async def keep(self) -> None:
        """Looks every few seconds, for ever."""
        while True:
            await asyncio.sleep(self._seconds)
            for connection in tuple(self._connections):
                self._look(connection)

    def _look(self, connection: LimitedProtocol) -> None:
        waiting = connection.transport.get_write_buffer_size()
        if not waiting:  # the system has taken all, so it had room
            self._seen.pop(connection, None)
            return
        left = waiting + _in_the_system(connection.transport)
        before = self._seen.get(connection)
        # What grows while the client has not caught up once is not being read either.
        moved = before is None or left < before.left or connection.resumed != before.resumed
        looks = 0 if moved or before is None else before.looks + 1
        if looks < _LOOKS:
            self._seen[connection] = _Seen(left, connection.resumed, looks)
            return
        host, port = connection.client or ("?", 0)
        log.warning(
            "%s:%d took nothing for %.0f s: its connection is cut, with %d bytes unread",
            host,
            port,
            _LOOKS * self._seconds,
            left,
        )
        self.discard(connection)
        connection.transport.abort()


def _in_the_system(transport: asyncio.Transport) -> int:
    """Bytes that the system holds and the client's has not confirmed: megabytes, of which a slow client takes little at a time.

    SIOCOUTQ of Linux (tcp(7)), which has TIOCOUTQ's number; where there is none, only what is above it is seen to move.
    """
    with contextlib.suppress(OSError, ValueError):
        found = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
        return int.from_bytes(found, sys.byteorder)
    return 0
