"""Prepared statements on a connection of psycopg's, without its cursors.

A cursor costs 115 µs of CPU for a statement, and 270 in a process that was just woken; this costs 70 and 140. What
it leaves out: pipelines, COPY, server-side cursors, statements that are not prepared. What it keeps of psycopg: how a
connection is made, waited for and called off, how values become parameters and columns become values, and its errors.
"""

from __future__ import annotations

import asyncio
import logging
from collections import namedtuple
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import count
from typing import Any

import psycopg
from psycopg.abc import Buffer
from psycopg.adapt import PyFormat, Transformer
from psycopg.errors import error_from_result
from psycopg.generators import execute
from psycopg.pq import ExecStatus, TransactionStatus
from psycopg.pq.abc import PGresult
from psycopg.waiting import wait_async
from sqlalchemy import TextClause
from sqlalchemy.dialects import postgresql

Connection = psycopg.AsyncConnection[Any]
RowMaker = Callable[[Iterable[Any]], Any]

log = logging.getLogger(__name__)

#: How often it is looked whether the connection was closed under a statement; psycopg's own.
_INTERVAL = 0.1
_CANCEL_SECONDS = 5.0

_DIALECT = postgresql.dialect(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]
_GOOD = frozenset({ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK})


class PreparedConnection:
    """A connection in autocommit mode, for one statement at a time."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._libpq = connection.pgconn
        self._transformer = Transformer(connection)
        #: By statement and types of its parameters: a number has another type when it is larger.
        self._names: dict[tuple[str, tuple[int, ...]], bytes] = {}
        self._numbers = count()
        #: Calls off at the server what was called off here, and then closes the connection; None: nothing was.
        self.end: asyncio.Task[None] | None = None

    @property
    def closed(self) -> bool:
        return self._connection.closed

    @property
    def idle(self) -> bool:
        """Nothing is under way, or being called off."""
        return self.end is None and self._libpq.transaction_status == TransactionStatus.IDLE

    @property
    def socket(self) -> int:
        return self._libpq.socket

    async def execute(self, statement: TextClause, parameters: Mapping[str, Any]) -> list[Any]:
        """Runs it; answers its rows, with columns as attributes.

        Raises:
            psycopg.Error: the server refused it, or is away.
        """
        name, values = await self.prepare(statement, parameters)
        self._libpq.send_query_prepared(name, values, self._transformer.formats)
        result = await self._result()
        if not result.nfields:
            return []
        self._transformer.set_pgresult(result)
        try:
            return self._transformer.load_rows(0, result.ntuples, _row(_columns(result)))
        finally:
            self._transformer.set_pgresult(None)  # it may be large

    async def prepare(
        self, statement: TextClause, parameters: Mapping[str, Any]
    ) -> tuple[bytes, Sequence[Buffer | None]]:
        """The statement's name at the server, which knows it from here on, and the parameters as they are sent.

        Raises: psycopg.Error: as ``execute`` does.
        """
        sql, parts = _compiled(statement)
        given = [parameters[part] for part in parts]
        values = self._transformer.dump_sequence(given, [PyFormat.AUTO] * len(given))
        key = sql, tuple(self._transformer.types or ())
        return self._names.get(key) or await self._prepare(key), values

    async def begin(self) -> None:
        """What follows is one transaction. Raises: psycopg.Error."""
        await self._simple(b"BEGIN")

    async def ping(self) -> None:
        """Raises: psycopg.Error: the server is away."""
        await self._simple(b"SELECT 1")

    async def close(self) -> None:
        """Whatever still runs here ends with ``OperationalError``; what is being called off ends by itself, see ``end``."""
        if self.end is None:
            await self._connection.close()

    async def _call_off(self) -> None:
        """Tells the server. Nobody waits for that: it may hang, and then answers not even a cancel."""
        try:
            await self._connection.cancel_safe(timeout=_CANCEL_SECONDS)
        except psycopg.Error as error:
            log.warning(
                "a statement was called off, and the server could not be told (%s)", type(error).__name__
            )
        finally:
            await self._connection.close()

    async def _simple(self, sql: bytes) -> None:
        self._libpq.send_query(sql)
        await self._result()

    async def _prepare(self, key: tuple[str, tuple[int, ...]]) -> bytes:
        name = b"plantain_%d" % next(self._numbers)
        self._libpq.send_prepare(name, key[0].encode(), key[1])
        await self._result()
        self._names[key] = name
        return name

    async def _result(self) -> PGresult:
        """What the server answers to what was sent.

        Raises:
            psycopg.Error: that it was wrong, or that it has gone.
        """
        try:
            results: list[PGresult] = await wait_async(execute(self._libpq), self._libpq.socket, _INTERVAL)
        except asyncio.CancelledError:
            self.end = asyncio.create_task(self._call_off())
            raise
        for result in results:
            if result.status == ExecStatus.FATAL_ERROR:
                raise without_values(error_from_result(result))
            if result.status not in _GOOD:
                raise psycopg.NotSupportedError(f"no statement for here: {ExecStatus(result.status).name}")
        return results[-1]


def without_values(error: psycopg.Error) -> psycopg.Error:
    """The server's error with what was wrong as its text.

    Detail and context quote whole rows, prompts included, and errors get into logs; ``diag`` has them still.
    """
    if error.diag.message_primary:
        error.args = (error.diag.message_primary,)
    return error


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
