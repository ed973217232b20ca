"""Direct connections: bounded, and none that is broken is used again."""

from __future__ import annotations

import asyncio
import os
import signal

import psycopg
import pytest
from sqlalchemy import text

from shared.config import Settings
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


async def test_a_server_that_hangs_keeps_nobody_who_is_called_off(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor where the connection was idle for so long that it is asked first whether it lives."""
    monkeypatch.setattr("shared.direct._TRUSTED_SECONDS", 0)
    [row] = await database.direct.execute(_WHO, {})
    os.kill(row.pid, signal.SIGSTOP)
    try:
        call = asyncio.create_task(database.direct.execute(_WHO, {}))
        await asyncio.sleep(0.1)
        call.cancel()
        async with asyncio.timeout(1):
            with pytest.raises(asyncio.CancelledError):
                await call
        [other] = await database.direct.execute(_WHO, {})
        assert other.pid != row.pid
    finally:
        os.kill(row.pid, signal.SIGCONT)


async def test_the_end_waits_until_what_was_called_off_has_ended_at_the_server(settings: Settings) -> None:
    database, other = Database(settings), Database(settings)
    call = asyncio.create_task(database.direct.execute(text("SELECT pg_sleep(60)"), {}))
    await asyncio.sleep(0.2)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await database.direct.close()
    assert (
        await other.direct.execute(
            text("SELECT 1 FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%'"), {}
        )
        == []
    )
    await database.close()
    await other.close()
