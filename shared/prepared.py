"""Prepared statements on a connection of psycopg's, straight through libpq.

psycopg's cursors cost 120 µs of CPU for a statement, and 190 in a process that was just woken; this costs 50. What it
leaves out: pipelines, COPY, server-side cursors, statements that are not prepared. What it keeps of psycopg: how a
connection is made, how values become parameters and columns become values, and its errors.
"""

from __future__ import annotations

import asyncio
from collections import namedtuple
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any

import psycopg
from psycopg.adapt import PyFormat, Transformer
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus, TransactionStatus
from psycopg.pq.abc import PGresult
from sqlalchemy import TextClause
from sqlalchemy.dialects import postgresql

Connection = psycopg.AsyncConnection[Any]
RowMaker = Callable[[Iterable[Any]], Any]

_DIALECT = postgresql.dialect(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]
#: What a server that hangs may take to be told that nobody waits any more.
_CANCEL_SECONDS = 1.0


class PreparedConnection:
    """A connection in autocommit mode, for one statement at a time."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._libpq = connection.pgconn
        self._transformer = Transformer(connection)
        #: Names, by statement and types of its parameters: a number has another type when it is larger.
        self._names: dict[tuple[str, tuple[int, ...]], bytes] = {}

    @property
    def closed(self) -> bool:
        return self._connection.closed

    @property
    def idle(self) -> bool:
        """Nothing is under way, or left over from what was called off."""
        return self._libpq.transaction_status == TransactionStatus.IDLE

    @property
    def socket(self) -> int:
        return self._libpq.socket

    async def execute(self, statement: TextClause, parameters: Mapping[str, Any]) -> list[Any]:
        """Runs it; answers its rows, with columns as attributes.

        Raises:
            psycopg.Error: the server refused it, or is away.
        """
        sql, parts = _compiled(statement)
        transformer = self._transformer
        values = transformer.dump_sequence([parameters[name] for name in parts], [PyFormat.AUTO] * len(parts))
        key = sql, tuple(transformer.types or ())
        name = self._names.get(key) or await self._prepare(key)
        self._libpq.send_query_prepared(name, values, transformer.formats)
        result = await self._result()
        if not result.nfields:
            return []
        transformer.set_pgresult(result)
        return transformer.load_rows(0, result.ntuples, _row(_columns(result)))

    async def begin(self) -> None:
        """What follows is one transaction. Raises: psycopg.Error."""
        await self._connection.execute("BEGIN")

    async def ping(self) -> None:
        """Raises: psycopg.Error: the server is away."""
        await self._connection.execute("SELECT 1")

    async def close(self) -> None:
        """Whatever still runs is called off."""
        if not self._connection.closed and self._libpq.transaction_status == TransactionStatus.ACTIVE:
            with suppress(psycopg.Error):
                await self._connection.cancel_safe(timeout=_CANCEL_SECONDS)
        await self._connection.close()

    async def _prepare(self, key: tuple[str, tuple[int, ...]]) -> bytes:
        name = b"p%d" % len(self._names)
        self._libpq.send_prepare(name, key[0].encode(), key[1])
        await self._result()
        self._names[key] = name
        return name

    async def _result(self) -> PGresult:
        """What the server answers to what was sent. Raises: psycopg.Error."""
        loop = asyncio.get_running_loop()
        answer = _Answer(self._libpq, loop)
        socket = self._libpq.socket
        loop.add_reader(socket, answer.read)
        try:
            if not self._libpq.flush():
                results = await answer.whole
            else:  # the socket takes no more for now
                loop.add_writer(socket, answer.write)
                try:
                    results = await answer.whole
                finally:
                    loop.remove_writer(socket)
        finally:
            loop.remove_reader(socket)
        for result in results:
            if result.status not in _GOOD:
                raise error_from_result(result)
        if not results:
            raise psycopg.OperationalError("the server gave no answer")
        return results[-1]


_GOOD = frozenset({ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK})


class _Answer:
    """All that the server answers to one message, as it comes."""

    __slots__ = ("_libpq", "_loop", "_results", "whole")

    def __init__(self, libpq: psycopg.pq.abc.PGconn, loop: asyncio.AbstractEventLoop) -> None:
        self._libpq = libpq
        self._loop = loop
        self._results: list[PGresult] = []
        self.whole: asyncio.Future[list[PGresult]] = loop.create_future()

    def read(self) -> None:
        if self.whole.done():
            return
        try:
            self._libpq.consume_input()
            while not self._libpq.is_busy():
                result = self._libpq.get_result()
                if result is None:
                    self.whole.set_result(self._results)
                    return
                self._results.append(result)
        except Exception as error:  # noqa: BLE001  for whoever waits
            self.whole.set_exception(error)

    def write(self) -> None:
        try:
            if not self._libpq.flush():
                self._loop.remove_writer(self._libpq.socket)
        except Exception as error:  # noqa: BLE001  likewise
            if not self.whole.done():
                self.whole.set_exception(error)


@lru_cache(maxsize=256)
def _compiled(statement: TextClause) -> tuple[str, tuple[str, ...]]:
    """The statement with libpq's placeholders, and the name of each."""
    compiled = statement.compile(dialect=_DIALECT)
    return str(compiled), tuple(compiled.positiontup or ())


def _columns(result: PGresult) -> tuple[bytes, ...]:
    return tuple(result.fname(column) or b"" for column in range(result.nfields))


@lru_cache(maxsize=256)
def _row(columns: tuple[bytes, ...]) -> RowMaker:
    """Makes a row of values."""
    names = [name.decode() for name in columns]
    row: Any = namedtuple("Row", names, rename=True)  # type: ignore[misc]  # noqa: PYI024  known at run time only
    made: RowMaker = row._make
    return made
