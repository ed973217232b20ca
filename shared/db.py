"""The engine: one pool of PostgreSQL connections a process and event loop."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Literal, TypeVar

import orjson
import psycopg
from sqlalchemy import event
from sqlalchemy.engine.interfaces import DBAPIConnection, ExceptionContext
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from shared.config import Settings
from shared.direct import COUNTING, DirectConnections
from shared.outage import Outage
from shared.prepared import without_values

log = logging.getLogger(__name__)

Result = TypeVar("Result")

#: A connection that was in use so recently is taken to be alive.
_TRUSTED_SECONDS = 1.0
#: Connections for single statements at most.
_DIRECT_AT_MOST = 4
#: A disk that was full so recently is taken to be so still: only a write can tell, and nobody may dare one.
_REFUSED_SECONDS = 10.0
#: A process that stands still in the middle of a transaction keeps its locks for so long, and no longer.
_IDLE_MILLISECONDS = 5_000
#: So long a statement waits for somebody else's lock. Those that carry many jobs pass over what is locked instead.
_LOCK_MILLISECONDS = 3_000


class Database:
    """Hands out transactions; code inside never commits, the end of the block does.

    Who catches an error that says that the database is away (``is_unavailable``) tells ``outage``.
    """

    def __init__(self, settings: Settings, *, application: str = "plantain", counting: bool = False) -> None:
        """``counting``: one of the connections is kept for ``counts``."""
        self.outage = Outage(log, "the database")
        milliseconds = int(settings.database_statement_timeout * 1000)
        options = {
            "connect_timeout": max(2, round(settings.database_connect_timeout)),
            "application_name": application,
            # Each statement sees what was committed before it, whatever a database's default is: claims and counts rely on it.
            "options": "-c default_transaction_isolation=read\\ committed "
            f"-c statement_timeout={milliseconds} -c idle_in_transaction_session_timeout={_IDLE_MILLISECONDS}"
            f" -c lock_timeout={_LOCK_MILLISECONDS} -c timezone=UTC",
            # A peer that vanished without a word is noticed within about ten seconds.
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 3,
            "tcp_user_timeout": 10000,
        }
        direct = max(1, min(_DIRECT_AT_MOST, (settings.database_pool_size - counting) // 2))
        #: Connections for transactions of several statements; with the others, as many as the settings allow.
        self.pool_size = max(1, settings.database_pool_size - direct - counting)
        self.engine: AsyncEngine = create_async_engine(
            settings.sqlalchemy_url,
            pool_size=self.pool_size,
            max_overflow=0,
            # Waiting longer than a connect takes means that the database is away or overloaded.
            pool_timeout=settings.database_connect_timeout,
            hide_parameters=True,  # prompts never reach a log through an error's text
            json_serializer=lambda value: orjson.dumps(value).decode(),
            json_deserializer=orjson.loads,
            connect_args=options,
        )
        #: The same pool without BEGIN and COMMIT: a lone SELECT needs neither, and each is a round trip.
        self._reading = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        where = self.engine.dialect.create_connect_args(self.engine.url)[1]
        #: For single statements on hot paths, each a transaction of its own.
        self.direct = DirectConnections(direct, {**where, **options}, self.outage.went_well)
        #: For statements that count many rows: one at a time, so that a process takes one core of the server's at most for it.
        self.counts = DirectConnections(
            1,
            {**where, **options},
            self.outage.went_well,
            COUNTING,
            patience=settings.database_connect_timeout,
        )
        event.listen(self.engine.sync_engine, "checkout", self._ping_idle)
        event.listen(self.engine.sync_engine, "checkin", _note_use)
        event.listen(self.engine.sync_engine, "handle_error", _leave_out_values)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """One connection and one transaction: committed at the end, rolled back on an error."""
        async with self.engine.begin() as connection:
            yield connection
        self.outage.went_well()

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """One connection for statements that change nothing, each for itself."""
        async with self._reading.connect() as connection:
            yield connection
        self.outage.went_well()

    def _ping_idle(self, connection: DBAPIConnection, record: ConnectionPoolEntry, _: object) -> None:
        """Replaces a connection that died while it was idle, instead of failing a request.

        SQLAlchemy's own pre-ping asks before every transaction: a round trip more for each, under load too.
        """
        if time.monotonic() - record.info.get("used", 0.0) < _TRUSTED_SECONDS:
            return
        dialect = self.engine.sync_engine.dialect
        try:
            dialect.do_ping(connection)
        except dialect.loaded_dbapi.Error as error:
            raise DisconnectionError from error

    @property
    def refuses_writes(self) -> Literal["read_only", "full"] | None:
        """Why a write failed a moment ago, if the server wrote nothing. Reads go well meanwhile."""
        at, error = self.outage.last
        return None if error is None or time.monotonic() - at >= _REFUSED_SECONDS else no_writes(error)

    async def close(self) -> None:
        await self.direct.close()
        await self.counts.close()
        await self.engine.dispose()


def _leave_out_values(context: ExceptionContext) -> None:
    """``hide_parameters`` leaves out what we sent; the server's own text may quote it, too."""
    error, wrapped = context.original_exception, context.sqlalchemy_exception
    if isinstance(error, psycopg.Error):
        without_values(error)
        if wrapped is not None:
            wrapped.args = (f"({type(error).__name__}) {error}",)


def _note_use(_: object, record: ConnectionPoolEntry) -> None:
    record.info["used"] = time.monotonic()


async def within(seconds: float, work: Coroutine[Any, Any, Result]) -> Result:
    """Waits so long for work with the database, and then leaves it behind.

    The server's own statement timeout ends what merely takes long. This is for a server that hangs: it
    answers nothing, not even a cancel, and the driver would wait for that for ever.

    Raises:
        TimeoutError: the work has not ended.
    """
    task = asyncio.ensure_future(work)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    done, _ = await asyncio.wait({task}, timeout=seconds)
    if not done:
        raise TimeoutError("the database did not answer")
    return task.result()


class HeldError(TimeoutError):
    """Somebody else has the row locked: trying again is right, and the others in the batch need not wait for it."""


def is_unavailable(error: BaseException) -> bool:
    """Whether an error says that the database is away, so that trying again later is right."""
    if isinstance(error, PoolTimeout | ConnectionError | TimeoutError):
        return True
    original = _original(error)
    if not isinstance(original, psycopg.Error):
        return False
    state = original.sqlstate
    if state is None:  # the connection failed before the server could answer
        return isinstance(original, psycopg.OperationalError | psycopg.InterfaceError)
    # 08 connection, 53 out of resources, 57 shut down or cancelled, 58 disk;
    # 25006 read-only, 25P03 this process stood still in a transaction, 40P01 deadlock, 55P03 lock timeout
    return state[:2] in {"08", "53", "57", "58"} or state in {"25006", "25P03", "40P01", "55P03"}


def no_writes(error: BaseException) -> Literal["read_only", "full"] | None:
    """Why the database wrote nothing, where an error says that it is there and answers."""
    original = _original(error)
    match original.sqlstate if isinstance(original, psycopg.Error) else None:
        case "25006":
            return "read_only"
        case "53100":
            return "full"
    return None


def _original(error: BaseException) -> BaseException | None:
    """The driver's own. Pictures are read and written by it directly: those come without SQLAlchemy's around them."""
    return error.orig if isinstance(error, DBAPIError) else error
