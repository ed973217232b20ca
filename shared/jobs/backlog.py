"""What waits, what runs and how long attempts take: what outlooks are made of, in two bounded statements."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.jobs.outlook import COUNTED, Spread, moments
from shared.kinds import KINDS
from shared.providers.catalog import ModelSpec, catalog, models_for
from shared.queue import ALL_QUEUES, PRIORITIES, queue_name

#: Jobs that ended last, of all models together, that are looked at.
_RECENT_JOBS = 500

#: Times leave the server as it holds them, 8 bytes each: as text, ten thousand would take 20 ms to read.
_BACKLOG = text("""
    SELECT q.queue, now() AS now, p.waiting, coalesce(r.running, 0) AS running
    FROM unnest(CAST(:queues AS text[])) AS q(queue)
    CROSS JOIN LATERAL (
        SELECT string_agg(timestamptz_send(published_at), ''::bytea) AS waiting FROM (
            SELECT published_at FROM jobs
            WHERE state = 'queued' AND published_at IS NOT NULL AND queue = q.queue
            ORDER BY published_at LIMIT :most) AS each) AS p
    LEFT JOIN (SELECT queue, count(*) AS running FROM jobs WHERE state = 'running' GROUP BY queue) AS r USING (queue)
""")

#: A job's last attempt stands for it. Seconds count from the claim to the record: so long it holds a slot.
_RECENT = text("""
    WITH took AS (
        SELECT j.model, j.queue, a.outcome, extract(epoch FROM a.finished_at - a.claimed_at)::float8 AS seconds
        FROM (SELECT id, attempt, model, queue FROM jobs WHERE finished_at IS NOT NULL
              ORDER BY finished_at DESC LIMIT :jobs) AS j
        JOIN attempts a ON a.job_id = j.id AND a.number = j.attempt
    )
    SELECT coalesce(model, queue) AS name, avg(seconds) AS mean,
           percentile_cont(0.5) WITHIN GROUP (ORDER BY seconds) AS p50,
           percentile_cont(0.9) WITHIN GROUP (ORDER BY seconds) AS p90
    FROM took WHERE seconds >= 0 AND (outcome = 'succeeded' OR outcome = 'failed')
    GROUP BY GROUPING SETS ((model), (queue))
""")


class Read(NamedTuple):
    """When each message of a queue was published, how many jobs of each run, and the database's clock."""

    waiting: dict[str, array[int]]
    running: dict[str, int]
    now: datetime


async def read(db: AsyncConnection) -> Read:
    """The queues as they are, up to ``COUNTED`` messages of each."""
    rows = (await db.execute(_BACKLOG, {"queues": list(ALL_QUEUES), "most": COUNTED})).all()
    return Read(
        {row.queue: moments(row.waiting or b"") for row in rows},
        {row.queue: row.running for row in rows},
        rows[0].now,
    )


async def recent(db: AsyncConnection) -> dict[str, Spread]:
    """How long attempts took of late: by model, and by queue."""
    rows = await db.execute(_RECENT, {"jobs": _RECENT_JOBS})
    return {row.name: Spread(row.mean, row.p50, row.p90) for row in rows}


def by_queue(known: Mapping[str, Spread]) -> dict[str, Spread]:
    """For every queue what is known of it; else what the catalogue says of the models that it may hold."""
    return {queue: known.get(queue) or typical for queue, typical in _typical_queues().items()}


def by_model(known: Mapping[str, Spread], model: str) -> Spread | None:
    """What is known of a model; else what the catalogue says. None: it is no longer in there."""
    return known.get(model) or _typical_models().get(model)


@cache
def _typical_models() -> dict[str, Spread]:
    return {alias: _typical([model]) for alias, model in catalog().items()}


@cache
def _typical_queues() -> dict[str, Spread]:
    return {
        queue_name(kind.queue, priority): _typical(models_for(kind.name))
        for kind in KINDS.values()
        for priority in PRIORITIES
    }


def _typical(models: Sequence[ModelSpec]) -> Spread:
    """The catalogue has p50 and p95; the first stands for the mean, the second for p90."""
    p50 = sum(model.typical_seconds[0] for model in models) / len(models)
    return Spread(p50, p50, sum(model.typical_seconds[1] for model in models) / len(models))
