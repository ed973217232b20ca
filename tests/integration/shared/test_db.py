"""What a connection is set to, and what an error of the database means."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from shared.config import Settings
from shared.db import Database, is_unavailable

_LOCK = text("SELECT pg_advisory_xact_lock(:key)")


@pytest.mark.parametrize("way", ["transaction", "direct"])
async def test_each_statement_sees_what_was_committed_whatever_the_database_is_set_to(
    database: Database, settings: Settings, way: str
) -> None:
    setting = text("SELECT current_setting('transaction_isolation') AS level")
    async with database.transaction() as db:
        name = (await db.execute(text("SELECT current_database()"))).scalar_one()
        await db.execute(
            text(f"ALTER DATABASE \"{name}\" SET default_transaction_isolation = 'serializable'")
        )
    later = Database(settings)
    try:
        if way == "direct":
            rows = await later.direct.execute(setting, {})
        else:
            async with later.transaction() as db:
                rows = list(await db.execute(setting))
        assert [row.level for row in rows] == ["read committed"]
    finally:
        await later.close()


async def test_who_loses_a_deadlock_may_try_again(database: Database) -> None:
    """Nothing of his is stored."""
    both = asyncio.Barrier(2)

    async def holder(first: int, second: int) -> None:
        async with database.transaction() as db:
            await db.execute(_LOCK, {"key": first})
            await both.wait()
            await db.execute(_LOCK, {"key": second})

    ends = await asyncio.gather(holder(1, 2), holder(2, 1), return_exceptions=True)
    [error] = [end for end in ends if end is not None]
    assert isinstance(error, DBAPIError)
    assert "deadlock" in str(error)
    assert is_unavailable(error)
