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
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from api.protocol import LimitedProtocol

log = logging.getLogger(__name__)

#: So many looks in a row. Counted, not timed: a process that stood still itself must not blame its clients.
_LOOKS = 6
#: Of a server that is to stop: nobody should wait for those who do not read. Looks, and seconds between them.
_LAST_LOOKS, _LAST_SECONDS = 3, 1.0


@dataclass(slots=True)
class _Seen:
    """What was found at the last look: bytes that the client's system had confirmed, and for how many looks no more."""

    taken: int
    looks: int = 0


class Standstill:
    """The connections of one process; ``patience`` is in seconds."""

    def __init__(self, patience: float) -> None:
        self._seconds, self._looks = patience / _LOOKS, _LOOKS
        self._connections: set[LimitedProtocol] = set()
        #: Of those only for whom something is on its way.
        self._seen: dict[LimitedProtocol, _Seen] = {}
        self._hurried = asyncio.Event()

    def add(self, connection: LimitedProtocol) -> None:
        self._connections.add(connection)

    def discard(self, connection: LimitedProtocol) -> None:
        self._connections.discard(connection)
        self._seen.pop(connection, None)

    def hurry(self) -> None:
        """The process is to end: from now on patience is short."""
        self._seconds, self._looks = _LAST_SECONDS, _LAST_LOOKS
        self._hurried.set()

    async def keep(self) -> None:
        """Looks every few seconds, for ever."""
        while True:
            await self._pause()
            for connection in tuple(self._connections):
                try:
                    self._look(connection)
                except Exception:
                    log.exception("a connection could not be looked at")
                    self.discard(connection)

    async def _pause(self) -> None:
        if self._hurried.is_set():
            await asyncio.sleep(self._seconds)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._seconds):
                await self._hurried.wait()

    def _look(self, connection: LimitedProtocol) -> None:
        transport = connection.transport
        waiting = transport.get_write_buffer_size() + _in_the_system(transport)
        if not waiting:
            self._seen.pop(connection, None)
            return
        taken = connection.written - waiting
        seen = self._seen.get(connection)
        if seen is None or taken > seen.taken:
            self._seen[connection] = _Seen(taken)
            return
        seen.looks += 1
        if seen.looks >= self._looks:
            self._cut(connection, waiting)

    def _cut(self, connection: LimitedProtocol, waiting: int) -> None:
        host, port = connection.client or ("?", 0)
        log.warning(
            "%s:%d took nothing for %g s: its connection is cut, with %d bytes unread",
            host,
            port,
            self._looks * self._seconds,
            waiting,
        )
        self.discard(connection)
        connection.transport.abort()


def _in_the_system(transport: asyncio.Transport) -> int:
    """Bytes that this system holds and the client's has not confirmed: up to megabytes, of which a slow client takes few at a time.

    SIOCOUTQ of Linux (tcp(7)), which has TIOCOUTQ's number; where there is none, only what is above it is seen to move.
    """
    with contextlib.suppress(OSError, ValueError):
        found = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
        return int.from_bytes(found, sys.byteorder)
    return 0
