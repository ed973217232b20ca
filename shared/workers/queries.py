"""The SQL of worker processes: each writes its row anew with every renewal of leases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

#: A worker that has not been heard of for this long counts as gone.
ALIVE_SECONDS = 30.0

_HEARTBEAT = text("""
    INSERT INTO workers (name, queues, concurrency, in_flight, started_at, heartbeat_at)
    VALUES (:name, CAST(:queues AS text[]), :concurrency, :in_flight,
            now() - make_interval(secs => :uptime), now())
    ON CONFLICT (name) DO UPDATE SET queues = excluded.queues, concurrency = excluded.concurrency,
        in_flight = excluded.in_flight, started_at = excluded.started_at, heartbeat_at = excluded.heartbeat_at
""")

_GOODBYE = text("DELETE FROM workers WHERE name = :name")

_FORGET = text("""
    WITH gone AS (
        SELECT name FROM workers WHERE heartbeat_at < now() - make_interval(secs => :after)
        ORDER BY name LIMIT :limit FOR UPDATE SKIP LOCKED
    )
    DELETE FROM workers USING gone WHERE workers.name = gone.name
""")

_ALIVE = text("""
    SELECT queue, count(*) AS alive FROM workers CROSS JOIN unnest(queues) AS queue
    WHERE heartbeat_at > now() - make_interval(secs => :alive) GROUP BY queue
""")

_GROUPS = text("""
    SELECT queues, sum(concurrency)::int AS slots FROM workers
    WHERE heartbeat_at > now() - make_interval(secs => :alive) GROUP BY queues
""")


async def heartbeat(
    db: AsyncConnection, name: str, *, queues: Sequence[str], concurrency: int, in_flight: int, uptime: float
) -> None:
    """Says that a worker lives, what it takes jobs from, and for how many seconds it has been there."""
    parameters = {
        "name": name,
        "queues": list(queues),
        "concurrency": concurrency,
        "in_flight": in_flight,
        "uptime": uptime,
    }
    await db.execute(_HEARTBEAT, parameters)


async def say_goodbye(db: AsyncConnection, name: str) -> None:
    await db.execute(_GOODBYE, {"name": name})


async def forget(db: AsyncConnection, *, after: float, limit: int) -> None:
    """Drops the rows of workers that nobody has heard of for so many seconds."""
    await db.execute(_FORGET, {"after": after, "limit": limit})


async def alive(db: AsyncConnection) -> dict[str, int]:
    """How many live workers take jobs from each queue; one that nobody serves is not in the answer."""
    return {row.queue: row.alive for row in await db.execute(_ALIVE, {"alive": ALIVE_SECONDS})}


async def groups(db: AsyncConnection) -> Sequence[Row[Any]]:
    """Live workers by the ``queues`` that they take jobs from, and the ``slots`` of each group."""
    return (await db.execute(_GROUPS, {"alive": ALIVE_SECONDS})).all()
