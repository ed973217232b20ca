"""The SQL of batches. Nothing here stands in the way of a job: what a batch is up to is counted when somebody asks."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.batches.schemas import BatchState

#: Bytes of results that one page holds, as they are stored: compressed.
_PAGE_BYTES = 256 * 1024
_PAGE_JOBS = 200

# Where a statement wants the first few jobs of a batch, it says so as a range of the index's two columns, in their order.
# By ``batch_id = …`` and a LIMIT, PostgreSQL may take it that any way through the table will meet some of them soon.


def _among(batch: str, low: str, high: str, column: str) -> str:
    """The condition that a job is of the batch, and its column from low to high."""
    return f"""batch_id IS NOT NULL AND (batch_id, {column}) >= ({batch}, {low}) AND (batch_id, {column}) <= ({batch}, {high})
        ORDER BY batch_id, {column}"""


def _live(batch: str) -> str:
    """The condition that a job is of the batch and not final: there is no state between the two."""
    return _among(batch, "'queued'", "'running'", "state")


_LEAST, _MOST = (f"CAST('{UUID(int=number)}' AS uuid)" for number in (0, 2**128 - 1))

_CREATE = text("""
    WITH b AS (
        INSERT INTO batches (id, project_id, total, tags, metadata)
        VALUES (:id, :project_id, :total, CAST(:tags AS text[]), CAST(:metadata AS jsonb))
        RETURNING *
    ), event AS (
        INSERT INTO job_events (project_id, batch_id, type, data)
        SELECT project_id, id, 'batch.created', jsonb_build_object('batch_id', id, 'total', total) FROM b
    )
    SELECT * FROM b
""")

_GET = text("SELECT * FROM batches WHERE id = :id AND project_id = :project_id")

_PAGE = text("""
    SELECT * FROM batches
    WHERE project_id = :project_id
      AND (created_at, id) < (CAST(:until AS timestamptz), CAST(:until_id AS uuid))
      AND (CAST(:completed AS bool) IS NULL OR (completed_at IS NOT NULL) = CAST(:completed AS bool))
    ORDER BY created_at DESC, id DESC LIMIT :limit
""")

_COUNT = text("""
    SELECT state, count(*) AS jobs, sum(cost_usd) AS cost_usd FROM jobs WHERE batch_id = :id GROUP BY state
""")

_RESULTS = text(f"""
    SELECT batch_index, id, kind, state, result, error, metadata
    FROM (
        SELECT *, sum(size) OVER (ORDER BY id) - size AS before
        FROM (
            SELECT *, coalesce(pg_column_size(result), 0) AS size FROM jobs
            WHERE id > CAST(:after AS uuid) AND {_among("CAST(:id AS uuid)", "CAST(:after AS uuid)", _MOST, "id")} LIMIT :jobs
        ) AS next
    ) AS fitting
    WHERE before < :bytes ORDER BY id
""")

_ID_AT = text("SELECT max(id::text)::uuid FROM jobs WHERE batch_id = :id AND batch_index <= :index")

_REQUEST_CANCEL = text("""
    WITH b AS (
        UPDATE batches SET cancel_requested_at = now()
        WHERE id = :id AND project_id = :project_id AND completed_at IS NULL AND cancel_requested_at IS NULL
        RETURNING *
    )
    INSERT INTO job_events (project_id, batch_id, type, data) SELECT project_id, id, 'batch.cancel_requested', jsonb_build_object('batch_id', id) FROM b
""")

_TO_CANCEL = text(f"""
    SELECT id FROM jobs WHERE cancel_requested_at IS NULL AND {_live("CAST(:id AS uuid)")} LIMIT :limit
""")

_CALLED_OFF = text("""
    SELECT id, project_id FROM batches WHERE completed_at IS NULL AND cancel_requested_at IS NOT NULL ORDER BY id
""")

# Asked for each open batch by itself: one descent into the index.
_COMPLETE = text(f"""
    WITH b AS (
        SELECT id FROM batches
        WHERE completed_at IS NULL
          AND (SELECT true FROM jobs WHERE {_live("batches.id")} LIMIT 1) IS NULL
        ORDER BY id LIMIT :limit FOR UPDATE SKIP LOCKED
    ), done AS (
        UPDATE batches SET completed_at = now(), counts = c.counts, cost_usd = c.cost_usd
        FROM b CROSS JOIN LATERAL (
            SELECT coalesce(jsonb_object_agg(state, jobs), '{{}}') AS counts, coalesce(sum(cost), 0) AS cost_usd
            FROM (SELECT state, count(*) AS jobs, sum(cost_usd) AS cost FROM jobs WHERE batch_id = b.id GROUP BY state) AS s
        ) AS c
        WHERE batches.id = b.id
        RETURNING batches.*
    ), event AS (
        INSERT INTO job_events (project_id, batch_id, type, data)
        SELECT project_id, id, 'batch.completed', jsonb_build_object(
            'batch_id', id, 'total', total, 'counts', counts, 'cost_usd', trim_scale(cost_usd)::text,
            'cancel_requested', cancel_requested_at IS NOT NULL)
        FROM done
    )
    SELECT id, project_id FROM done
""")

_COMPLETION = text(
    "SELECT id FROM job_events WHERE batch_id = :id AND batch_id IS NOT NULL AND type = 'batch.completed'"
)

# The jobs of a batch go one by one; with the last of them it is of no use to anybody.
_PRUNE = text(f"""
    WITH b AS (
        SELECT id FROM batches
        WHERE completed_at < now() - make_interval(secs => :after)
          AND (SELECT true FROM jobs WHERE {_among("batches.id", _LEAST, _MOST, "id")} LIMIT 1) IS NULL
        ORDER BY id LIMIT :limit FOR UPDATE SKIP LOCKED
    ), event AS (
        DELETE FROM job_events USING b WHERE job_events.batch_id = b.id
    )
    DELETE FROM batches USING b WHERE batches.id = b.id
""")


async def create(
    db: AsyncConnection,
    *,
    batch_id: UUID,
    project_id: UUID,
    total: int,
    tags: Sequence[str],
    metadata: str,
) -> Row[Any]:
    """Writes a batch, before its jobs in the same transaction: its event is the first of theirs."""
    given = {"id": batch_id, "project_id": project_id, "total": total, "tags": list(tags)}
    return (await db.execute(_CREATE, {**given, "metadata": metadata})).one()


async def get(db: AsyncConnection, project_id: UUID, batch_id: UUID) -> Row[Any] | None:
    return (await db.execute(_GET, {"id": batch_id, "project_id": project_id})).one_or_none()


async def page(
    db: AsyncConnection,
    project_id: UUID,
    *,
    state: BatchState | None,
    until: datetime | str,
    until_id: UUID,
    limit: int,
) -> list[Row[Any]]:
    """Batches before a position, newest first."""
    parameters = {
        "project_id": project_id,
        "completed": None if state is None else state is BatchState.COMPLETED,
        "until": until,
        "until_id": until_id,
        "limit": limit,
    }
    return list(await db.execute(_PAGE, parameters))


async def count(db: AsyncConnection, batch_id: UUID) -> list[Row[Any]]:
    """``state``, ``jobs`` and ``cost_usd`` of its jobs."""
    return list(await db.execute(_COUNT, {"id": batch_id}))


async def results(db: AsyncConnection, batch_id: UUID, *, after: UUID) -> list[Row[Any]]:
    """The next jobs by id, which is the order of the batch, with what became of them: a bounded page, none at the end."""
    parameters = {"id": batch_id, "after": after, "jobs": _PAGE_JOBS, "bytes": _PAGE_BYTES}
    return list(await db.execute(_RESULTS, parameters))


async def id_at(db: AsyncConnection, batch_id: UUID, index: int) -> UUID | None:
    """The id of the job at this place, or of the last one before it that is still there."""
    found: UUID | None = (await db.execute(_ID_AT, {"id": batch_id, "index": index})).scalar_one()
    return found


async def request_cancel(db: AsyncConnection, project_id: UUID, batch_id: UUID) -> None:
    """Notes that a batch which is not completed is to be cancelled; its jobs are another matter."""
    await db.execute(_REQUEST_CANCEL, {"id": batch_id, "project_id": project_id})


async def to_cancel(db: AsyncConnection, batch_id: UUID, *, limit: int) -> list[UUID]:
    """Some of its jobs that are not final and were not asked to stop."""
    return [row.id for row in await db.execute(_TO_CANCEL, {"id": batch_id, "limit": limit})]


async def called_off(db: AsyncConnection) -> list[tuple[UUID, UUID]]:
    """Project and id of each batch that is to be cancelled and has not come to its end."""
    return [(row.project_id, row.id) for row in await db.execute(_CALLED_OFF)]


async def complete(db: AsyncConnection, *, limit: int) -> list[tuple[UUID, UUID]]:
    """Notes of batches whose jobs are all final that they are, with an event; answers project and id of each.

    A final job stays final, and no job joins a batch later, so this is seen once and holds for ever.
    """
    return [(row.project_id, row.id) for row in await db.execute(_COMPLETE, {"limit": limit})]


async def completion(db: AsyncConnection, batch_id: UUID) -> int | None:
    """The id of the event ``batch.completed``."""
    found: int | None = (await db.execute(_COMPLETION, {"id": batch_id})).scalar_one_or_none()
    return found


async def prune(db: AsyncConnection, *, after: float, limit: int) -> int:
    """Deletes batches that were completed so many seconds ago and have no jobs left; answers how many."""
    return int((await db.execute(_PRUNE, {"after": after, "limit": limit})).rowcount)
