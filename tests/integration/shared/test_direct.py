"""Direct connections: bounded, and none that is broken is used again."""

from __future__ import annotations

import asyncio

import psycopg
import pytest
from sqlalchemy import text

from shared.db import Database

_WHO = text("SELECT pg_backend_pid() AS pid")


async def test_each_statement_is_a_transaction(database: Database) -> None:
    insert = text("INSERT INTO projects (id, name) VALUES (gen_random_uuid(), :name) RETURNING name")
    [row] = await database.direct.execute(insert, {"name": "a"})
    assert row.name == "a"
    with pytest.raises(psycopg.errors.UniqueViolation):
        await database.direct.execute(insert, {"name": "a"})
    assert await database.direct.execute(text("SELECT name FROM projects WHERE name = 'a'"), {})


async def test_there_are_never_more_than_its_size(database: Database) -> None:
    slow = text("SELECT pg_backend_pid() AS pid, pg_sleep(0.05)")
    found = await asyncio.gather(*(database.direct.execute(slow, {}) for _ in range(20)))
    assert 1 < len({rows[0].pid for rows in found}) <= database.direct.size


async def test_one_that_the_server_closed_is_replaced_unseen(database: Database) -> None:
    [row] = await database.direct.execute(_WHO, {})
    async with database.transaction() as db:
        await db.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": row.pid})
    await asyncio.sleep(0.1)
    [other] = await database.direct.execute(_WHO, {})
    assert other.pid != row.pid


async def test_a_cancelled_statement_leaves_no_answer_to_the_next(database: Database) -> None:
    call = asyncio.create_task(database.direct.execute(text("SELECT 1 AS n, pg_sleep(5)"), {}))
    await asyncio.sleep(0.1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    [row] = await database.direct.execute(text("SELECT 2 AS n"), {})
    assert row.n == 2
