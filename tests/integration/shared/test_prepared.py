"""Prepared statements without cursors: what goes in comes out, errors are psycopg's, and nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
import traceback
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import uuid4

import psycopg
import pytest
import uvloop
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from shared.db import Database
from shared.prepared import PreparedConnection
from tests import factories
from tests.patience import PATIENCE

_RUNS = text("SELECT 1 FROM pg_stat_activity WHERE pid = :pid AND state = 'active'")


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[PreparedConnection]:
    made = PreparedConnection(await psycopg.AsyncConnection.connect(database_url, autocommit=True))
    yield made
    await made.close()


async def one(connection: PreparedConnection, sql: str, **parameters: Any) -> Any:
    [row] = await connection.execute(text(sql), parameters)
    return row


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("int", 7),
        ("bigint", 70_000),
        ("bigint", 7_000_000_000),
        ("bigint", None),
        ("float8", 0.1),
        ("bool", True),
        ("text", "it's 50% of ünï\n"),
        ("text", ""),
        ("uuid", uuid4()),
        ("uuid[]", [uuid4(), uuid4()]),
        ("uuid[]", []),
        ("int[]", [1, 70_000]),
        ("text[]", ["a", "b,c", None]),
        ("bytea", b"\x00\xff"),
        ("numeric", Decimal("0.00000001")),
        ("timestamptz", datetime(2026, 11, 30, 12, tzinfo=UTC)),
    ],
)
async def test_what_goes_in_comes_out(connection: PreparedConnection, kind: str, value: object) -> None:
    for _ in range(2):  # prepared, and as it was prepared
        assert (await one(connection, f"SELECT CAST(:value AS {kind}) AS it", value=value)).it == value


async def test_a_number_that_grows_has_another_type(connection: PreparedConnection) -> None:
    for value in (1, 70_000, 7_000_000_000, 2):
        assert (await one(connection, "SELECT :value + 1 AS it", value=value)).it == value + 1


async def test_a_name_may_stand_in_it_twice(connection: PreparedConnection) -> None:
    row = await one(
        connection, "SELECT CAST(:b AS int) - CAST(:a AS int) AS it, CAST(:b AS int) AS b", a=1, b=5
    )
    assert (row.it, row.b) == (4, 5)


async def test_json_is_read_as_everywhere(database: Database) -> None:
    [row] = await database.direct.execute(text("SELECT CAST(:it AS jsonb) AS it"), {"it": '{"a": [1, null]}'})
    assert row.it == {"a": [1, None]}


async def test_columns_without_a_name_of_their_own_do_no_harm(connection: PreparedConnection) -> None:
    assert tuple(await one(connection, "SELECT 1, 2, 3 AS a, 4 AS a")) == (1, 2, 3, 4)


async def test_no_rows_and_nothing_to_give_are_two_things(connection: PreparedConnection) -> None:
    assert await connection.execute(text("SELECT 1 AS n WHERE false"), {}) == []
    assert await connection.execute(text("SET work_mem = '5MB'"), {}) == []


async def test_more_than_the_socket_takes_and_gives_at_once(connection: PreparedConnection) -> None:
    large = "x" * 50_000_000
    assert (await one(connection, "SELECT CAST(:it AS text) AS it", it=large)).it == large


async def test_errors_are_psycopgs_and_the_connection_stays(
    database: Database, connection: PreparedConnection
) -> None:
    project = await factories.project(database)
    insert = "INSERT INTO projects (id, name) VALUES (:id, 'other') RETURNING id"
    with pytest.raises(psycopg.errors.UniqueViolation) as raised:
        await one(connection, insert, id=project)
    assert raised.value.diag.constraint_name == "pk_projects"
    assert str(project) in (raised.value.diag.message_detail or "")
    assert str(project) not in str(raised.value), "it may be a prompt"
    with pytest.raises(psycopg.errors.UndefinedTable):
        await one(connection, "SELECT * FROM nothing_like_it")
    with pytest.raises(psycopg.errors.DivisionByZero):
        await one(connection, "SELECT 1 / CAST(:n AS int) AS n", n=0)
    with pytest.raises(KeyError):
        await one(connection, "SELECT CAST(:n AS int)")
    assert connection.idle
    assert (await one(connection, "SELECT 1 AS n")).n == 1


async def test_errors_of_transactions_quote_no_rows_either(database: Database) -> None:
    prompt = "a secret wish"
    insert = "INSERT INTO jobs (id, project_id, kind, model, queue, input) VALUES (gen_random_uuid(), :project, 'k', 'm', 'q', :input)"
    with pytest.raises(IntegrityError) as raised:
        async with database.transaction() as db:
            await db.execute(
                text(insert),
                {"project": await factories.project(database), "input": f'{{"prompt": "{prompt}"}}'},
            )
    error = raised.value
    assert isinstance(error.orig, psycopg.errors.NotNullViolation)
    assert prompt in (error.orig.diag.message_detail or "")
    assert prompt not in "".join(traceback.format_exception(error))
    assert "null value in column" in str(error)


async def test_a_server_that_ends_in_the_middle_is_an_outage(
    database: Database, connection: PreparedConnection
) -> None:
    pid = (await one(connection, "SELECT pg_backend_pid() AS pid")).pid
    call = asyncio.create_task(one(connection, "SELECT pg_sleep(5)"))
    await asyncio.sleep(0.1)
    async with database.transaction() as db:
        await db.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
    with pytest.raises(psycopg.errors.AdminShutdown):
        await call
    assert not connection.idle
    with pytest.raises(psycopg.OperationalError):
        await one(connection, "SELECT 1 AS n")


def test_a_server_that_ends_with_a_statement_unread_is_an_outage(database_url: str) -> None:
    """Its last words and the connection's end come in one turn of the loop, which is uvloop where it counts."""

    async def ended() -> None:
        connection = PreparedConnection(await psycopg.AsyncConnection.connect(database_url, autocommit=True))
        pid = (await one(connection, "SELECT pg_backend_pid() AS pid")).pid
        os.kill(pid, signal.SIGSTOP)
        try:
            call = asyncio.create_task(one(connection, "SELECT 7 AS n"))
            await asyncio.sleep(0.1)
            with psycopg.connect(database_url, autocommit=True) as other:
                other.execute("SELECT pg_terminate_backend(%s)", [pid])
        finally:
            os.kill(pid, signal.SIGCONT)
        time.sleep(0.2)  # the loop is to see both at once
        async with asyncio.timeout(3):
            with pytest.raises(psycopg.errors.AdminShutdown):
                await call
        await connection.close()

    for run in (asyncio.run, uvloop.run):
        run(ended())


async def test_who_is_called_off_stops_at_the_server_too(
    database: Database, connection: PreparedConnection
) -> None:
    pid = (await one(connection, "SELECT pg_backend_pid() AS pid")).pid
    call = asyncio.create_task(one(connection, "SELECT pg_sleep(60)"))
    await asyncio.sleep(0.1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert not connection.idle
    await connection.close()  # as its owner does then
    async with asyncio.timeout(PATIENCE):
        while await database.direct.execute(_RUNS, {"pid": pid}):
            await asyncio.sleep(0.01)
        while not connection.closed:
            await asyncio.sleep(0.01)


async def test_who_is_called_off_waits_for_no_server(connection: PreparedConnection) -> None:
    """One that hangs answers not even a cancel."""
    pid = (await one(connection, "SELECT pg_backend_pid() AS pid")).pid
    call = asyncio.create_task(one(connection, "SELECT 1 AS n"))
    os.kill(pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(0.1)
        call.cancel()
        async with asyncio.timeout(1):
            with pytest.raises(asyncio.CancelledError):
                await call
            await connection.close()
    finally:
        os.kill(pid, signal.SIGCONT)


async def test_who_is_called_off_while_it_is_prepared_does_no_harm(database: Database) -> None:
    """The server may know the statement by then, and its answer may be there."""
    for turns in range(6):
        for sql in ("SELECT 1 AS n", "SELECT 1 AS n, 2"):
            call = asyncio.create_task(database.direct.execute(text(sql), {}))
            for _ in range(turns):
                await asyncio.sleep(0)
            time.sleep(0.05)
            call.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await call
            [row] = await database.direct.execute(text(sql), {})
            assert row.n == 1


async def test_one_that_is_closed_under_a_statement_ends_it(connection: PreparedConnection) -> None:
    call = asyncio.create_task(one(connection, "SELECT pg_sleep(30)"))
    await asyncio.sleep(0.1)
    await connection.close()
    async with asyncio.timeout(2):
        with pytest.raises(psycopg.OperationalError):
            await call


async def test_copy_is_none_of_its_work(connection: PreparedConnection) -> None:
    with pytest.raises(psycopg.NotSupportedError):
        await connection.execute(text("COPY (SELECT 1) TO STDOUT"), {})
    assert not connection.idle


async def test_a_statement_that_no_longer_fits_the_schema_is_prepared_anew(database: Database) -> None:
    asked = text("SELECT * FROM growing, pg_sleep(0.1)")
    many = database.direct.size
    async with database.transaction() as db:
        await db.execute(text("CREATE TABLE growing AS SELECT 1 AS a"))
    try:
        await asyncio.gather(*(database.direct.execute(asked, {}) for _ in range(many)))
        async with database.transaction() as db:
            await db.execute(text("ALTER TABLE growing ADD COLUMN b int"))
        for [row] in await asyncio.gather(*(database.direct.execute(asked, {}) for _ in range(many))):
            assert (row.a, row.b) == (1, None)
    finally:
        async with database.transaction() as db:
            await db.execute(text("DROP TABLE growing"))
