"""The SQL of gates. Rows are locked in order of model, as jobs are in order of id."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.gates.limits import RECOVERED_AT, Gate

_COLUMNS = """
    model, rpm, learned_rpm, max_in_flight, paused_until, reason, allowance, next_slot_at, clock_timestamp() AS now
"""

_LOCK = text(f"""
    SELECT {_COLUMNS} FROM model_gates WHERE model = ANY(CAST(:models AS text[])) ORDER BY model FOR UPDATE
""")

_LOCK_FREE = text(f"SELECT {_COLUMNS} FROM model_gates ORDER BY model FOR UPDATE SKIP LOCKED")

_RUNNING = text("""
    SELECT model, count(*) AS running FROM jobs
    WHERE state = 'running' AND model = ANY(CAST(:models AS text[])) GROUP BY model
""")

_TAKE_SLOTS = text(
    "UPDATE model_gates SET next_slot_at = :next_slot_at, updated_at = now() WHERE model = :model"
)

_PAUSE = text("""
    INSERT INTO model_gates AS g (model, paused_until, reason, pauses, allowance, learned_rpm, learned_at)
    VALUES (:model, now() + make_interval(secs => :seconds), :reason, 1, 1, CAST(:learned_rpm AS int),
            CASE WHEN CAST(:learned_rpm AS int) IS NOT NULL THEN now() END)
    ON CONFLICT (model) DO UPDATE SET
        -- Many calls fail together; only the first of them makes the next pause longer.
        pauses = g.pauses + CASE WHEN coalesce(g.paused_until, now()) <= now() THEN 1 ELSE 0 END,
        paused_until = greatest(g.paused_until, now() + make_interval(secs =>
            CASE WHEN :exact THEN :seconds ELSE least(:seconds * power(2, g.pauses), :longest) END)),
        reason = excluded.reason, allowance = 1,
        learned_rpm = coalesce(excluded.learned_rpm, g.learned_rpm),
        learned_at = coalesce(excluded.learned_at, g.learned_at), updated_at = now()
    RETURNING paused_until
""")

_RECOVER = text("""
    UPDATE model_gates SET updated_at = now(),
        allowance = CASE WHEN allowance * 2 < :recovered THEN allowance * 2 END,
        pauses = CASE WHEN allowance * 2 < :recovered THEN pauses ELSE 0 END
    WHERE model = :model AND allowance IS NOT NULL AND (paused_until IS NULL OR paused_until <= now())
""")

_FORGET = text("""
    UPDATE model_gates SET learned_rpm = NULL, learned_at = NULL
    WHERE learned_at < now() - make_interval(secs => :after)
""")

_REMOVE_OPEN = text("""
    DELETE FROM model_gates
    WHERE rpm IS NULL AND max_in_flight IS NULL AND learned_rpm IS NULL AND allowance IS NULL
      AND (paused_until IS NULL OR paused_until <= now())
""")

_CONFIGURE = text("""
    INSERT INTO model_gates AS g (model, rpm, max_in_flight) VALUES (:model, :rpm, :max_in_flight)
    ON CONFLICT (model) DO UPDATE SET rpm = excluded.rpm, max_in_flight = excluded.max_in_flight, updated_at = now()
""")

_UNCONFIGURE = text("""
    UPDATE model_gates SET rpm = NULL, max_in_flight = NULL
    WHERE NOT model = ANY(CAST(:models AS text[])) AND (rpm IS NOT NULL OR max_in_flight IS NOT NULL)
""")


async def lock(db: AsyncConnection, models: Sequence[str] | None = None) -> list[Gate]:
    """The gates of these models, locked until the transaction ends; where None, all that nobody else has locked.

    Running jobs are counted in a second statement: it sees what was claimed while the lock was awaited.
    """
    if models is None:
        rows = (await db.execute(_LOCK_FREE)).all()
    else:
        rows = (await db.execute(_LOCK, {"models": list(models)})).all()
    if not rows:
        return []
    counted = await db.execute(_RUNNING, {"models": [row.model for row in rows]})
    running = {row.model: row.running for row in counted}
    return [Gate(running=running.get(row.model, 0), **row._mapping) for row in rows]  # noqa: SLF001


async def take_slots(db: AsyncConnection, model: str, next_slot_at: datetime | None) -> None:
    await db.execute(_TAKE_SLOTS, {"model": model, "next_slot_at": next_slot_at})


async def pause(
    db: AsyncConnection,
    model: str,
    *,
    seconds: float,
    exact: bool,
    longest: float,
    reason: str,
    learned_rpm: int | None,
) -> datetime:
    """Holds a model back for all workers; answers until when. Afterwards it recovers from one call at a time.

    Args:
        seconds: how long; where it is not ``exact`` (the provider named no time), it doubles with every
            pause in a row, up to ``longest``.
    """
    parameters = {
        "model": model,
        "seconds": seconds,
        "exact": exact,
        "longest": longest,
        "reason": reason,
        "learned_rpm": learned_rpm,
    }
    until: datetime = (await db.execute(_PAUSE, parameters)).scalar_one()
    return until


async def recover(db: AsyncConnection, model: str) -> None:
    """A call through a recovering gate went well: twice as many may be under way."""
    await db.execute(_RECOVER, {"model": model, "recovered": RECOVERED_AT})


async def remove_open(db: AsyncConnection, *, forget_after: float) -> None:
    """Drops rows that hold nothing back; a limit that a provider named is forgotten after so many seconds."""
    await db.execute(_FORGET, {"after": forget_after})
    await db.execute(_REMOVE_OPEN)


async def configure(db: AsyncConnection, limits: dict[str, tuple[int | None, int | None]]) -> None:
    """Sets the configured limits of models (calls a minute, calls under way); others lose theirs."""
    for model in sorted(limits):
        rpm, max_in_flight = limits[model]
        await db.execute(_CONFIGURE, {"model": model, "rpm": rpm, "max_in_flight": max_in_flight})
    await db.execute(_UNCONFIGURE, {"models": list(limits)})
