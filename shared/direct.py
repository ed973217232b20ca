"""Connections without SQLAlchemy around them, for the few statements that every job and every poll needs.

SQLAlchemy costs many times what libpq does for one statement, and BEGIN and COMMIT are round trips of their own. A
statement that is a transaction by itself needs neither, so it goes out here: prepared once a connection, committed by
the server when it ends.
"""

from __future__ import annotations

import asyncio
import select
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Literal

import orjson
import psycopg
from psycopg.types.json import set_json_loads
from sqlalchemy import TextClause

from shared.prepared import PreparedConnection

#: A connection that was in use so recently is taken to be alive, unless its socket says otherwise.
_TRUSTED_SECONDS = 30.0

#: Everything here looks rows up by their ids, whatever the ids: to plan that anew each time costs a fifth of the server. A
#: plan stays until its tables' statistics are next taken, so it must not depend on how many rows there were: no table or
#: index is read whole, nothing is hashed or sorted to be joined.
PLANNING = {
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_material": "off",
}

#: What is counted is grouped: hashed, however few rows statistics promise, as there may be thousands to sort.
#: Whoever counts takes one core.
COUNTING = {
    **PLANNING,
    "enable_sort": "off",
    "enable_incremental_sort": "off",
    "jit": "off",
    "max_parallel_workers_per_gather": "0",
}

#: What a prepared statement ends with that no longer fits the schema, or that somebody has deallocated.
_STALE = (psycopg.errors.FeatureNotSupported, psycopg.errors.InvalidSqlStatementName)


class _PatientSlots(asyncio.Semaphore):
    """Whoever waits longer than ``seconds`` gets ``TimeoutError``."""

    def __init__(self, size: int, seconds: float) -> None:
        super().__init__(size)
        self._seconds = seconds

    async def acquire(self) -> Literal[True]:
        async with asyncio.timeout(self._seconds):
            return await super().acquire()


class DirectConnections:
    """At most ``size`` connections in autocommit mode, made with psycopg's own options; one statement each at a time.

    ``went_well`` is called after each statement that did. ``patience``: seconds after which whoever waits for a connection gets
    ``TimeoutError``; None: he is called off by others. Has ``execute`` as SQLAlchemy's connections do, so the
    functions of ``queries.py`` take either.
    """

    def __init__(
        self,
        size: int,
        options: Mapping[str, Any],
        went_well: Callable[[], None],
        planning: Mapping[str, str] = PLANNING,
        patience: float | None = None,
    ) -> None:
        self.size = size
        self._went_well = went_well
        chosen = " ".join(f"-c {name}={value}" for name, value in planning.items())
        self._options = {**options, "options": f"{options['options']} {chosen}"}
        self._slots = asyncio.Semaphore(size) if patience is None else _PatientSlots(size, patience)
        #: Each with the monotonic time of its last use; the one used last is taken first.
        self._idle: deque[tuple[float, PreparedConnection]] = deque()
        #: Connections on which something is being called off.
        self._ends: set[asyncio.Task[None]] = set()
        self._closed = False

    async def execute(self, statement: TextClause, parameters: Mapping[str, Any]) -> list[Any]:
        """Runs one statement as a transaction of its own; answers its rows, with columns as attributes.

        Raises:
            psycopg.Error: the server refused it, or is away.
        """
        try:
            rows = await self._run(statement, parameters)
        except _STALE:
            # A migration has changed what the prepared statement answers: it did not run, and that connection is gone. The
            # others know no better.
            await self._close_idle()
            rows = await self._run(statement, parameters, fresh=True)
        self._went_well()
        return rows

    async def _run(
        self, statement: TextClause, parameters: Mapping[str, Any], *, fresh: bool = False
    ) -> list[Any]:
        async with self._slots:
            connection = await (self._open() if fresh else self._take())
            try:
                return await connection.execute(statement, parameters)
            except _STALE:
                await connection.close()
                raise
            finally:
                await self._give_back(connection)

    @asynccontextmanager
    async def apart(self) -> AsyncIterator[PreparedConnection]:
        """A transaction on a connection of its own, beside the ``size``: both end with the block, whatever still runs.

        Raises:
            psycopg.Error: none can be had.
        """
        connection = await self._open()
        try:
            await connection.begin()
            yield connection
        finally:
            await self._end(connection)

    async def close(self) -> None:
        """Closes what is idle, and waits for what is being called off: else it would go on at the server."""
        self._closed = True
        await self._close_idle()
        if self._ends:
            await asyncio.wait(self._ends)

    async def _close_idle(self) -> None:
        while self._idle:
            await self._idle.pop()[1].close()

    async def _take(self) -> PreparedConnection:
        while self._idle:
            used, connection = self._idle.pop()
            alive = False
            try:
                alive = await _is_alive(connection, time.monotonic() - used)
            finally:
                if not alive:
                    await self._end(connection)
            if alive:
                return connection
        return await self._open()

    async def _give_back(self, connection: PreparedConnection) -> None:
        # What was cancelled in the middle may have left an answer on its way.
        if connection.idle and not self._closed:
            self._idle.append((time.monotonic(), connection))
        else:
            await self._end(connection)

    async def _end(self, connection: PreparedConnection) -> None:
        await connection.close()
        if connection.end is not None:
            self._ends.add(connection.end)
            connection.end.add_done_callback(self._ends.discard)

    async def _open(self) -> PreparedConnection:
        connection = await psycopg.AsyncConnection[Any].connect(autocommit=True, **self._options)
        set_json_loads(orjson.loads, connection)
        return PreparedConnection(connection)


async def _is_alive(connection: PreparedConnection, idle: float) -> bool:
    """Whether an idle connection can be used: its server has neither closed it nor vanished."""
    if connection.closed:
        return False
    if idle < _TRUSTED_SECONDS and not _has_news(connection.socket):
        return True
    try:
        await connection.ping()
    except psycopg.Error:
        return False
    return True


def _has_news(descriptor: int) -> bool:
    """Whether something lies in the socket of a connection that expects nothing: most likely its end."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))
