"""The SQL of endpoints, their secrets and the ledger, as the API needs it; ``sending`` has what the dispatcher needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection
from uuid_utils.compat import uuid7

#: Those that the project has; beat deletes the others, with their deliveries, in small batches.
_KEPT = "url IS NOT NULL AND disabled_reason IS DISTINCT FROM 'deleted'"
_NEWEST_EVENT = "(SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM job_events_id_seq)"
_ENDPOINT = """
    w.id, w.project_id, w.url, w.events, w.description, w.paused_at, w.created_at, w.updated_at, w.disabled_at,
    w.disabled_reason, w.failing_since,
    (SELECT max(s.created_at) FROM webhook_secrets s WHERE s.endpoint_id = w.id) AS secret_created_at,
    (SELECT max(s.expires_at) FROM webhook_secrets s
     WHERE s.endpoint_id = w.id AND s.expires_at > now()) AS previous_secret_until
"""
_DELIVERY = """
    d.id, d.endpoint_id, d.job_id, d.type, coalesce(d.url, w.url) AS url, w.url IS NULL AS of_job, d.state, d.attempt,
    d.created_at, d.due_at, d.finished_at, d.last_status, d.last_error
"""

#: One request at a time counts a project's endpoints and adds to them.
_LOCK_PROJECT = text("SELECT id FROM projects WHERE id = :project_id FOR NO KEY UPDATE")
_COUNT = text(f"SELECT count(*) FROM webhook_endpoints WHERE project_id = :project_id AND {_KEPT}")
_INSERT = text(f"""
    INSERT INTO webhook_endpoints (id, project_id, url, events, description, paused_at, since_event)
    VALUES (:id, :project_id, :url, CAST(:events AS text[]), :description,
            CASE WHEN :paused THEN now() END, {_NEWEST_EVENT})
""")
_INSERT_OF_JOBS = text(f"""
    INSERT INTO webhook_endpoints (id, project_id, events, since_event)
    VALUES (:id, :project_id, CAST(:events AS text[]), {_NEWEST_EVENT})
    ON CONFLICT (project_id) WHERE url IS NULL DO NOTHING
""")
_OF_JOBS = text(
    f"SELECT {_ENDPOINT} FROM webhook_endpoints w WHERE w.project_id = :project_id AND w.url IS NULL"
)
_LIST = text(f"""
    SELECT {_ENDPOINT} FROM webhook_endpoints w WHERE w.project_id = :project_id AND {_KEPT}
    ORDER BY w.created_at, w.id
""")
_GET = text(f"""
    SELECT {_ENDPOINT} FROM webhook_endpoints w
    WHERE w.id = :id AND w.project_id = :project_id AND {_KEPT}
""")
# Whoever lets it run again gives it a fresh start. What happened while it was disabled is not for it.
_UPDATE = text(f"""
    UPDATE webhook_endpoints SET
        url = coalesce(CAST(:url AS text), url), events = coalesce(CAST(:events AS text[]), events),
        description = coalesce(CAST(:description AS text), description), updated_at = now(),
        paused_at = CASE CAST(:paused AS bool) WHEN true THEN coalesce(paused_at, now()) WHEN false THEN NULL
                    ELSE paused_at END,
        since_event = CASE WHEN NOT CAST(:paused AS bool) AND disabled_at IS NOT NULL THEN {_NEWEST_EVENT}
                      ELSE since_event END,
        disabled_at = CASE WHEN NOT CAST(:paused AS bool) THEN NULL ELSE disabled_at END,
        disabled_reason = CASE WHEN NOT CAST(:paused AS bool) THEN NULL ELSE disabled_reason END,
        failing_since = CASE WHEN NOT CAST(:paused AS bool) OR :url IS NOT NULL THEN NULL ELSE failing_since END
    WHERE id = :id AND project_id = :project_id AND {_KEPT}
    RETURNING id
""")
_DELETE = text(f"""
    WITH w AS (
        UPDATE webhook_endpoints SET disabled_at = coalesce(disabled_at, now()), disabled_reason = 'deleted'
        WHERE id = :id AND project_id = :project_id AND {_KEPT} RETURNING id
    ), secret AS (
        DELETE FROM webhook_secrets USING w WHERE endpoint_id = w.id
    )
    SELECT id FROM w
""")

_LOCK = text("SELECT id FROM webhook_endpoints WHERE id = :id AND project_id = :project_id FOR NO KEY UPDATE")
# Two sign at most: what was on its way out is forgotten, and the present one gets until then.
_FORGET_SECRETS = text("""
    DELETE FROM webhook_secrets WHERE endpoint_id = :id AND (expires_at IS NOT NULL OR :overlap = 0)
""")
_RETIRE_SECRET = text("""
    UPDATE webhook_secrets SET expires_at = now() + make_interval(secs => :overlap)
    WHERE endpoint_id = :id AND expires_at IS NULL
""")
_INSERT_SECRET = text("""
    INSERT INTO webhook_secrets (id, project_id, endpoint_id, secret, created_at)
    VALUES (:secret_id, :project_id, :id, :secret, clock_timestamp())
""")

_INSERT_DELIVERY = text("""
    INSERT INTO webhook_deliveries (id, project_id, endpoint_id, type, body)
    VALUES (:id, :project_id, :endpoint_id, :type, :body)
""")
_DELIVERY_OF = text(f"""
    SELECT {_DELIVERY}, d.body FROM webhook_deliveries d JOIN webhook_endpoints w ON w.id = d.endpoint_id
    WHERE d.id = :id AND d.project_id = :project_id AND w.disabled_reason IS DISTINCT FROM 'deleted'
""")
_ATTEMPTS = text("""
    SELECT number, started_at, duration_ms, status, answer, error FROM webhook_attempts
    WHERE delivery_id = :id ORDER BY number DESC LIMIT :limit
""")
_CONDITIONS = {
    "webhook_id": "d.endpoint_id = :webhook_id AND w.url IS NOT NULL",
    "job_id": "d.job_id = :job_id",
    "state": "d.state = :state",
    "created_after": "d.created_at >= :created_after",
    "created_before": "d.created_at < :created_before",
    "cursor": "d.id < :cursor",
}
_AGAIN = """
    state = 'pending', failures = 0, due_at = now(), finished_at = NULL
"""
_REDELIVER = text(f"""
    UPDATE webhook_deliveries SET {_AGAIN} WHERE id = :id AND project_id = :project_id RETURNING id
""")
_REDELIVER_MANY = text(f"""
    WITH d AS (
        SELECT id FROM webhook_deliveries
        WHERE endpoint_id = :id AND project_id = :project_id AND state = ANY(CAST(:states AS text[]))
          AND created_at >= :after AND created_at < coalesce(CAST(:before AS timestamptz), 'infinity')
          AND (CAST(:cursor AS uuid) IS NULL OR id > :cursor)
        ORDER BY id LIMIT :limit FOR NO KEY UPDATE SKIP LOCKED
    )
    UPDATE webhook_deliveries SET {_AGAIN} FROM d WHERE webhook_deliveries.id = d.id RETURNING d.id
""")


async def lock_project(db: AsyncConnection, project_id: UUID) -> None:
    await db.execute(_LOCK_PROJECT, {"project_id": project_id})


async def count(db: AsyncConnection, project_id: UUID) -> int:
    found: int = (await db.execute(_COUNT, {"project_id": project_id})).scalar_one()
    return found


async def insert(
    db: AsyncConnection,
    project_id: UUID,
    *,
    endpoint_id: UUID,
    url: str,
    events: Sequence[str],
    description: str,
    paused: bool,
) -> None:
    """An endpoint for what happens from now on."""
    parameters = {
        "id": endpoint_id,
        "project_id": project_id,
        "url": url,
        "events": list(events),
        "description": description,
        "paused": paused,
    }
    await db.execute(_INSERT, parameters)


async def of_jobs(db: AsyncConnection, project_id: UUID) -> Row[Any] | None:
    """What stands for the addresses that jobs name themselves."""
    return (await db.execute(_OF_JOBS, {"project_id": project_id})).one_or_none()


async def insert_of_jobs(db: AsyncConnection, project_id: UUID, events: Sequence[str]) -> None:
    """Makes that, where it does not exist."""
    parameters = {"id": uuid7(), "project_id": project_id, "events": list(events)}
    await db.execute(_INSERT_OF_JOBS, parameters)


async def list_all(db: AsyncConnection, project_id: UUID) -> list[Row[Any]]:
    return list(await db.execute(_LIST, {"project_id": project_id}))


async def get(db: AsyncConnection, project_id: UUID, endpoint_id: UUID) -> Row[Any] | None:
    return (await db.execute(_GET, {"id": endpoint_id, "project_id": project_id})).one_or_none()


async def update(db: AsyncConnection, project_id: UUID, endpoint_id: UUID, changes: dict[str, Any]) -> bool:
    """False where there is none. ``changes`` may have ``url``, ``events``, ``description`` and ``paused``."""
    parameters = {"url": None, "events": None, "description": None, "paused": None, **changes}
    found = await db.execute(_UPDATE, {**parameters, "id": endpoint_id, "project_id": project_id})
    return found.first() is not None


async def delete(db: AsyncConnection, project_id: UUID, endpoint_id: UUID) -> bool:
    """At once for everybody outside; ``sending.purge`` takes its deliveries. False where there is none."""
    found = await db.execute(_DELETE, {"id": endpoint_id, "project_id": project_id})
    return found.first() is not None


async def rotate(
    db: AsyncConnection, project_id: UUID, endpoint_id: UUID, secret: bytes, *, overlap: float
) -> None:
    """Makes a secret the present one; the one before it signs for ``overlap`` seconds more."""
    parameters = {
        "id": endpoint_id,
        "project_id": project_id,
        "secret_id": uuid7(),
        "secret": secret,
        "overlap": overlap,
    }
    for statement in (_LOCK, _FORGET_SECRETS, _RETIRE_SECRET, _INSERT_SECRET):
        await db.execute(statement, parameters)


async def insert_delivery(
    db: AsyncConnection, project_id: UUID, endpoint_id: UUID, *, kind: str, body: str
) -> UUID:
    """One that tells of no event."""
    delivery_id = uuid7()
    parameters = {
        "id": delivery_id,
        "project_id": project_id,
        "endpoint_id": endpoint_id,
        "type": kind,
        "body": body,
    }
    await db.execute(_INSERT_DELIVERY, parameters)
    return delivery_id


async def delivery(db: AsyncConnection, project_id: UUID, delivery_id: UUID) -> Row[Any] | None:
    return (await db.execute(_DELIVERY_OF, {"id": delivery_id, "project_id": project_id})).one_or_none()


async def attempts(db: AsyncConnection, delivery_id: UUID, *, limit: int) -> list[Row[Any]]:
    """The last ones, in order."""
    return list(await db.execute(_ATTEMPTS, {"id": delivery_id, "limit": limit}))[::-1]


async def deliveries(
    db: AsyncConnection, project_id: UUID, wanted: dict[str, Any], *, limit: int
) -> list[Row[Any]]:
    """Newest first; ``wanted`` has a value for each condition of ``DeliveryQuery`` that is set."""
    conditions = "".join(f" AND {_CONDITIONS[name]}" for name in wanted)
    statement = text(f"""
        SELECT {_DELIVERY} FROM webhook_deliveries d JOIN webhook_endpoints w ON w.id = d.endpoint_id
        WHERE d.project_id = :project_id AND w.disabled_reason IS DISTINCT FROM 'deleted'{conditions}
        ORDER BY d.id DESC LIMIT :limit
    """)
    return list(await db.execute(statement, {**wanted, "project_id": project_id, "limit": limit}))


async def redeliver(db: AsyncConnection, project_id: UUID, delivery_id: UUID) -> None:
    await db.execute(_REDELIVER, {"id": delivery_id, "project_id": project_id})


async def redeliver_many(
    db: AsyncConnection,
    project_id: UUID,
    endpoint_id: UUID,
    *,
    states: Sequence[str],
    after: Any,
    before: Any,
    cursor: UUID | None,
    limit: int,
) -> list[UUID]:
    """Which of an endpoint's deliveries, beyond ``cursor``, were made pending again; in order."""
    parameters = {
        "id": endpoint_id,
        "project_id": project_id,
        "states": list(states),
        "after": after,
        "before": before,
        "cursor": cursor,
        "limit": limit,
    }
    return sorted(row.id for row in await db.execute(_REDELIVER_MANY, parameters))
