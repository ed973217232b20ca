"""What an error of the database means."""

from __future__ import annotations

import asyncio

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from shared.db import Database, is_unavailable

_LOCK = text("SELECT pg_advisory_xact_lock(:key)")


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
