"""The SQL of making deliveries out of events, sending them, and forgetting them. All of it may run twice at once.

Rows are locked in order of id; what somebody else works on is passed over, or waited for by nobody.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.events.types import EventType

_ANYBODY = text("SELECT EXISTS (SELECT FROM webhook_endpoints WHERE disabled_at IS NULL)")
_PROGRESS = text("SELECT through_event FROM webhook_progress")
_LOCK_PROGRESS = text("SELECT through_event FROM webhook_progress FOR UPDATE SKIP LOCKED")
_MOVE_ON = text("UPDATE webhook_progress SET through_event = :through")
_LISTENERS = text("""
    SELECT id, project_id, url, events, since_event FROM webhook_endpoints WHERE disabled_at IS NULL
""")
_MAKE = text("""
    WITH row AS (
        SELECT * FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(
            id uuid, project_id uuid, endpoint_id uuid, event_id bigint, job_id uuid, type text, url text, lane text,
            body text)
    )
    INSERT INTO webhook_deliveries (id, project_id, endpoint_id, event_id, job_id, type, url, lane, body)
    SELECT row.id, row.project_id, endpoint_id, event_id, job_id, type, row.url, lane, body
    -- One that was deleted or disabled a moment ago gets none.
    FROM row JOIN webhook_endpoints w ON w.id = endpoint_id AND w.disabled_at IS NULL
    ON CONFLICT (endpoint_id, event_id) DO NOTHING
""")

# A lane is looked at by a step through the index, however long it is; one that is full, paused or disabled costs
# no more than that. Of what is due, that comes first whose lane has the least under way and is not failing, and of
# equals any: by their age, those to addresses that hang would always come before the others.
_CLAIM = text("""
    WITH RECURSIVE lane AS (
        (SELECT endpoint_id, lane FROM webhook_deliveries WHERE state = 'pending'
         ORDER BY endpoint_id, lane LIMIT 1)
        UNION ALL
        SELECT next.endpoint_id, next.lane FROM lane CROSS JOIN LATERAL (
            SELECT d.endpoint_id, d.lane FROM webhook_deliveries d
            WHERE d.state = 'pending' AND (d.endpoint_id, d.lane) > (lane.endpoint_id, lane.lane)
            ORDER BY d.endpoint_id, d.lane LIMIT 1
        ) next
    ), room AS (
        SELECT lane.endpoint_id, lane.lane, coalesce(r.room, :at_first) AS room, coalesce(r.busy, 0) AS busy,
               coalesce(r.well, false) AS well, CASE WHEN w.failing_since IS NULL THEN 0 ELSE 1 END AS handicap
        FROM lane JOIN webhook_endpoints w ON w.id = lane.endpoint_id
        LEFT JOIN jsonb_to_recordset(CAST(:rooms AS jsonb)) AS r(
                    endpoint_id uuid, lane text, room int, busy int, well bool)
               ON r.endpoint_id = lane.endpoint_id AND r.lane = lane.lane
        WHERE w.paused_at IS NULL AND w.disabled_at IS NULL
    ), due AS (
        SELECT d.id, room.well, random() AS chance, room.busy + room.handicap
               + row_number() OVER (PARTITION BY room.endpoint_id, room.lane ORDER BY d.due_at) AS turn
        FROM room CROSS JOIN LATERAL (
            SELECT id, due_at FROM webhook_deliveries d
            WHERE d.state = 'pending' AND d.endpoint_id = room.endpoint_id AND d.lane = room.lane
              AND d.due_at <= now()
            ORDER BY d.due_at LIMIT room.room
        ) d
    ), queue AS (
        SELECT id, well, turn, chance, row_number() OVER (PARTITION BY well ORDER BY turn, chance) AS place FROM due
    ), taken AS (
        SELECT id FROM webhook_deliveries
        WHERE id = ANY(ARRAY(
            SELECT id FROM queue WHERE well OR place <= :unproven ORDER BY turn, chance LIMIT :limit))
          AND state = 'pending' AND due_at <= now()
        ORDER BY id FOR UPDATE SKIP LOCKED
    ), claimed AS (
        UPDATE webhook_deliveries d SET attempt = attempt + 1, due_at = now() + make_interval(secs => :lease)
        FROM taken WHERE d.id = taken.id RETURNING d.*
    ), attempt AS (
        INSERT INTO webhook_attempts (delivery_id, number, project_id) SELECT id, attempt, project_id FROM claimed
    )
    SELECT c.id, c.endpoint_id, c.lane, c.attempt, c.failures, c.body, coalesce(c.url, w.url) AS url,
        w.url IS NULL AS of_job, CAST(extract(epoch FROM now()) AS bigint) AS timestamp,
        ARRAY(SELECT secret FROM webhook_secrets s
              WHERE s.endpoint_id = c.endpoint_id AND (s.expires_at IS NULL OR s.expires_at > now())
              ORDER BY s.created_at DESC) AS secrets
    FROM claimed c JOIN webhook_endpoints w ON w.id = c.endpoint_id
""")

# A 2xx counts whoever got it, even behind a last failure; what went wrong counts only where nobody else has begun meanwhile.
_RECORD = text("""
    WITH row AS (
        SELECT * FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(
            id uuid, number int, ok bool, counted bool, duration_ms float8, status smallint, answer text, error text,
            delay float8)
    ), attempt AS (
        UPDATE webhook_attempts a SET duration_ms = row.duration_ms, status = row.status, answer = row.answer,
            error = row.error
        FROM row WHERE a.delivery_id = row.id AND a.number = row.number
    ), j AS (
        SELECT d.id FROM webhook_deliveries d JOIN row ON row.id = d.id
        WHERE (row.ok AND d.state <> 'delivered') OR (d.state = 'pending' AND d.attempt = row.number)
        ORDER BY d.id FOR UPDATE OF d
    ), recorded AS (
        UPDATE webhook_deliveries d SET
            state = CASE WHEN row.ok THEN 'delivered' WHEN row.delay IS NULL THEN 'failed' ELSE 'pending' END,
            finished_at = CASE WHEN row.ok OR row.delay IS NULL THEN now() END,
            failures = d.failures + CASE WHEN row.counted THEN 1 ELSE 0 END,
            due_at = CASE WHEN row.ok OR row.delay IS NULL THEN d.due_at
                     ELSE now() + make_interval(secs => row.delay) END,
            last_status = row.status, last_error = row.error
        FROM row JOIN j ON j.id = row.id WHERE d.id = row.id
        RETURNING d.endpoint_id, row.ok, row.counted
    )
    SELECT r.endpoint_id, bool_or(r.ok) AS ok, bool_or(r.counted) AS failed, w.failing_since IS NOT NULL AS failing
    FROM recorded r JOIN webhook_endpoints w ON w.id = r.endpoint_id AND w.url IS NOT NULL
    GROUP BY r.endpoint_id, w.failing_since
""")
_WELL = text("""
    WITH w AS (SELECT id FROM webhook_endpoints WHERE id = ANY(CAST(:ids AS uuid[])) ORDER BY id FOR NO KEY UPDATE)
    UPDATE webhook_endpoints SET failing_since = NULL FROM w WHERE webhook_endpoints.id = w.id
""")
_FAILING = text("""
    WITH w AS (
        SELECT id FROM webhook_endpoints WHERE id = ANY(CAST(:ids AS uuid[])) AND failing_since IS NULL
        ORDER BY id FOR NO KEY UPDATE
    )
    UPDATE webhook_endpoints SET failing_since = now() FROM w WHERE webhook_endpoints.id = w.id
""")
_DISABLE = text("""
    WITH w AS (
        SELECT id FROM webhook_endpoints
        WHERE id = ANY(CAST(:ids AS uuid[])) AND disabled_at IS NULL AND url IS NOT NULL
          AND (id = ANY(CAST(:gone AS uuid[])) OR failing_since < now() - make_interval(secs => :after))
        ORDER BY id FOR NO KEY UPDATE
    ), disabled AS (
        UPDATE webhook_endpoints SET disabled_at = now(), updated_at = now(),
            disabled_reason = CASE WHEN webhook_endpoints.id = ANY(CAST(:gone AS uuid[])) THEN 'gone'
                              ELSE 'failing' END
        FROM w WHERE webhook_endpoints.id = w.id RETURNING webhook_endpoints.*
    ), event AS (
        INSERT INTO job_events (project_id, type, data)
        SELECT project_id, :type, jsonb_build_object('webhook_id', id, 'reason', disabled_reason,
            'description', description, 'failing_since', failing_since)
        FROM disabled
    )
    SELECT id, project_id, disabled_reason FROM disabled
""")
_GIVE_BACK = text("""
    WITH row AS (
        SELECT * FROM unnest(CAST(:ids AS uuid[]), CAST(:numbers AS int[])) AS r(id, number)
    ), attempt AS (
        UPDATE webhook_attempts a SET error = :error FROM row WHERE a.delivery_id = row.id AND a.number = row.number
    ), j AS (
        SELECT d.id FROM webhook_deliveries d JOIN row ON row.id = d.id AND row.number = d.attempt
        WHERE d.state = 'pending' ORDER BY d.id FOR UPDATE OF d SKIP LOCKED
    )
    UPDATE webhook_deliveries d SET due_at = now() FROM j WHERE d.id = j.id
""")
_END_DISABLED = text("""
    WITH j AS (
        SELECT d.id FROM webhook_endpoints w CROSS JOIN LATERAL (
            SELECT id FROM webhook_deliveries d WHERE d.endpoint_id = w.id AND d.state = 'pending'
            LIMIT :limit
        ) d WHERE w.disabled_at IS NOT NULL
        LIMIT :limit
    ), locked AS (
        SELECT id FROM webhook_deliveries WHERE id = ANY(ARRAY(SELECT id FROM j)) AND state = 'pending'
        ORDER BY id FOR UPDATE SKIP LOCKED
    )
    UPDATE webhook_deliveries d SET state = 'failed', finished_at = now(), last_error = 'the endpoint was disabled'
    FROM locked WHERE d.id = locked.id
""")
_PURGE = text("""
    WITH d AS (
        SELECT d.id FROM webhook_endpoints w CROSS JOIN LATERAL (
            SELECT id FROM webhook_deliveries d WHERE d.endpoint_id = w.id LIMIT :limit
        ) d WHERE w.disabled_reason = 'deleted'
        LIMIT :limit
    ), locked AS (
        SELECT id FROM webhook_deliveries WHERE id = ANY(ARRAY(SELECT id FROM d)) ORDER BY id FOR UPDATE SKIP LOCKED
    )
    DELETE FROM webhook_deliveries USING locked WHERE webhook_deliveries.id = locked.id
""")
_PURGE_ENDPOINTS = text("""
    DELETE FROM webhook_endpoints w WHERE disabled_reason = 'deleted'
      AND NOT EXISTS (SELECT FROM webhook_deliveries d WHERE d.endpoint_id = w.id)
""")
_PRUNE = text("""
    WITH d AS (
        SELECT id FROM webhook_deliveries WHERE created_at < now() - make_interval(secs => :after)
        ORDER BY created_at LIMIT :limit FOR UPDATE SKIP LOCKED
    )
    DELETE FROM webhook_deliveries USING d WHERE webhook_deliveries.id = d.id
""")


async def anybody(db: AsyncConnection) -> bool:
    """Whether anybody wants to hear of anything."""
    found: bool = (await db.execute(_ANYBODY)).scalar_one()
    return found


async def progress(db: AsyncConnection) -> int:
    """The event up to which deliveries have been made."""
    found: int = (await db.execute(_PROGRESS)).scalar_one()
    return found


async def lock_progress(db: AsyncConnection) -> int | None:
    """Likewise, held until the transaction ends; None: somebody else makes deliveries at this moment."""
    found: int | None = (await db.execute(_LOCK_PROGRESS)).scalar_one_or_none()
    return found


async def move_on(db: AsyncConnection, through: int) -> None:
    await db.execute(_MOVE_ON, {"through": through})


async def listeners(db: AsyncConnection) -> list[Row[Any]]:
    """All endpoints for which deliveries are made."""
    return list(await db.execute(_LISTENERS))


async def make(db: AsyncConnection, rows: Sequence[dict[str, Any]]) -> None:
    """Deliveries, due at once; one that exists is left as it is."""
    await db.execute(_MAKE, {"rows": _json(rows)})


async def claim(
    db: AsyncConnection,
    *,
    limit: int,
    unproven: int,
    at_first: int,
    rooms: Sequence[dict[str, Any]],
    lease: float,
) -> list[Row[Any]]:
    """Takes deliveries that are due, to send them.

    Args:
        limit: at most.
        unproven: of those at most so many of lanes that are not ``well``.
        at_first: of a lane that ``rooms`` does not name.
        rooms: lanes (``endpoint_id``, ``lane``) with how many may be taken (``room``), are under way (``busy``), and
            whether it answers (``well``).
        lease: seconds after which somebody else may take them.
    """
    parameters = {
        "limit": limit,
        "unproven": unproven,
        "at_first": at_first,
        "rooms": _json(rooms),
        "lease": lease,
    }
    return list(await db.execute(_CLAIM, parameters))


async def record(db: AsyncConnection, rows: Sequence[dict[str, Any]]) -> list[Row[Any]]:
    """What came of attempts. Answers, for each endpoint that has an address: ``ok``, ``failed``, ``failing``.

    A row's ``delay`` is in seconds; None means that it was the last attempt.
    """
    return list(await db.execute(_RECORD, {"rows": _json(rows)}))


async def note_health(db: AsyncConnection, *, well: Sequence[UUID], failing: Sequence[UUID]) -> None:
    """Begins and ends the times for which endpoints have been failing."""
    if well:
        await db.execute(_WELL, {"ids": list(well)})
    if failing:
        await db.execute(_FAILING, {"ids": list(failing)})


async def disable(
    db: AsyncConnection, ids: Sequence[UUID], *, gone: Sequence[UUID], after: float
) -> list[Row[Any]]:
    """Disables those that are gone, and those that have been failing for ``after`` seconds; each is an event."""
    parameters = {"ids": list(ids), "gone": list(gone), "after": after, "type": EventType.WEBHOOK_DISABLED}
    return list(await db.execute(_DISABLE, parameters))


async def give_back(db: AsyncConnection, attempts: Mapping[UUID, int], error: str) -> None:
    """Attempts that their sender breaks off: somebody else may begin at once."""
    parameters = {"ids": list(attempts), "numbers": list(attempts.values()), "error": error}
    await db.execute(_GIVE_BACK, parameters)


async def end_disabled(db: AsyncConnection, *, limit: int) -> int:
    """Ends what still waits for endpoints that are disabled; answers how many."""
    return int((await db.execute(_END_DISABLED, {"limit": limit})).rowcount)


async def purge(db: AsyncConnection, *, limit: int) -> int:
    """Deletes deliveries of endpoints that were deleted, and those that have none left; answers how many of the first."""
    done = int((await db.execute(_PURGE, {"limit": limit})).rowcount)
    await db.execute(_PURGE_ENDPOINTS)
    return done


async def prune(db: AsyncConnection, *, after: float, limit: int) -> int:
    """Deletes deliveries made longer than ``after`` seconds ago; answers how many."""
    return int((await db.execute(_PRUNE, {"after": after, "limit": limit})).rowcount)


def _json(rows: Sequence[dict[str, Any]]) -> str:
    return orjson.dumps(rows, default=str).decode()
