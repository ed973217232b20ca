"""The SQL of a job's life: one function per transition, each a guarded statement over many jobs.

What all of them keep to:
- Rows are locked in order of id, so that two batches never wait for each other in a circle.
- What a batch names is looked up by id, one by one (LATERAL): statistics of a table of finished jobs have next to none that run,
  and a join then reads every running job there is for each batch. Nor are two sets of a batch joined, as direct connections
  plan lookups alone (``shared.direct.PLANNING``): that would compare each with each.
- A batch passes over rows that somebody else has locked, as a process may have stopped with a transaction open.
- The guard (state, attempt, time) stands in the statement, so whoever comes second changes nothing.
- Time is the database's clock; no worker's clock decides anything.
- Every transition appends one event and raises ``version`` with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol
from uuid import UUID

import orjson
from sqlalchemy import Row, TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

#: What a client sees of a job; without ``input`` and ``result``, which can be large.
VIEW = """
    j.id, j.project_id, j.kind, j.model, j.priority, j.queue, j.warnings, j.tags, j.metadata, j.state, j.version, j.attempt,
    j.snoozes, j.max_attempts, j.timeout_seconds, j.on_unknown, j.created_at, j.scheduled_at, j.started_at,
    j.finished_at, j.expires_at, j.cancel_requested_at, j.error, j.provider, j.upstream_model,
    j.model_version, j.usage, j.cost_usd, j.replay_of, j.keep_seconds, j.stream, j.request_id, j.batch_id, j.batch_index,
    CASE WHEN j.state = 'queued' AND (j.scheduled_at > now() OR j.published_at IS NULL)
         THEN j.waiting_reason END AS waiting_reason,
    CASE WHEN j.state = 'queued' AND j.scheduled_at > now() THEN j.scheduled_at END AS waiting_until,
    j.published_at,
    CASE WHEN j.state = 'running' THEN (
        SELECT extract(epoch FROM now() - a.claimed_at)::float8 FROM attempts a
        WHERE a.job_id = j.id AND a.number = j.attempt) END AS elapsed
"""


class Executor(Protocol):
    """What runs one statement: a transaction's connection, or ``shared.direct`` where the statement is the transaction."""

    async def execute(self, statement: TextClause, parameters: Mapping[str, Any], /) -> Iterable[Any]: ...


class NewJob(NamedTuple):
    """A job that was just submitted, with the columns of ``VIEW``."""

    id: UUID
    project_id: UUID
    kind: str
    model: str
    priority: str
    queue: str
    warnings: Sequence[dict[str, str]]
    max_attempts: int
    timeout_seconds: float
    on_unknown: str
    created_at: datetime
    scheduled_at: datetime
    expires_at: datetime | None
    waiting_reason: str | None
    waiting_until: datetime | None
    tags: Sequence[str] = ()
    metadata: Mapping[str, str] = MappingProxyType({})
    replay_of: UUID | None = None
    keep_seconds: float | None = None
    stream: bool = False
    request_id: str | None = None
    batch_id: None = None
    batch_index: None = None
    state: str = "queued"
    version: int = 1
    attempt: int = 0
    snoozes: int = 0
    started_at: None = None
    finished_at: None = None
    cancel_requested_at: None = None
    error: None = None
    provider: None = None
    upstream_model: None = None
    model_version: None = None
    usage: None = None
    cost_usd: Decimal = Decimal(0)
    elapsed: None = None

    @property
    def published_at(self) -> datetime | None:
        return self.created_at if self.published else None

    @property
    def published(self) -> bool:
        """Workers are to be told now."""
        return self.waiting_reason is None


#: A row of ``VIEW``, or what stands for one.
JobRow = Row[Any] | NewJob


def _submitting(columns: str = "", values: str = "", types: str = "") -> TextClause:
    """The insert of new jobs. What few of them have is no column of the others' statement: each costs every submit."""
    return text(f"""
    WITH row AS (
        SELECT * FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(
            id uuid, project_id uuid, kind text, model text, priority text, queue text, input jsonb,
            warnings jsonb, max_attempts smallint, timeout_seconds float8, on_unknown text,
            scheduled_at timestamptz, expires_at timestamptz, replay_of uuid, keep_seconds float8, tags text[],
            metadata jsonb, request_id text{types})
    ), label AS (
        INSERT INTO job_labels (job_id, label, project_id, created_at)
        SELECT id, '#' || unnest(tags), project_id, now() FROM row WHERE tags <> '{{}}'
        UNION ALL
        SELECT id, key || '=' || value, project_id, now() FROM row, jsonb_each_text(metadata) WHERE metadata <> '{{}}'
    ), j AS (
        INSERT INTO jobs (id, project_id, kind, model, priority, queue, input, warnings, tags, metadata, max_attempts,
                          timeout_seconds, on_unknown, scheduled_at, expires_at, replay_of, keep_seconds, published_at,
                          waiting_reason, request_id{columns})
        SELECT id, project_id, kind, model, priority, queue, input, warnings, coalesce(tags, '{{}}'),
               coalesce(metadata, '{{}}'), max_attempts, timeout_seconds, on_unknown, coalesce(scheduled_at, now()),
               expires_at, replay_of, keep_seconds,
               CASE WHEN scheduled_at > now() THEN NULL ELSE now() END,
               CASE WHEN scheduled_at > now() THEN 'scheduled' END, request_id{values}
        FROM row
        RETURNING id, project_id, version, published_at
    ), event AS (
        INSERT INTO job_events (project_id, job_id, version, type, data)
        SELECT project_id, id, version, 'job.queued', '{{}}' FROM j
    )
    -- All else about a new job is known to who submits it, and a row each is dear.
    SELECT now() AS now, array_agg(id) FILTER (WHERE published_at IS NULL) AS later FROM j
""")


_SUBMIT = _submitting()
#: What few jobs have.
_RARE = ("webhook_url", "stream")
_SUBMIT_WITH_RARE = _submitting(
    ", webhook_url, webhook_events, stream",
    ", webhook_url, webhook_events, coalesce(stream, false)",
    ", webhook_url text, webhook_events text[], stream boolean",
)
_SUBMIT_OF_BATCH = _submitting(
    ", batch_id, batch_index, webhook_url, webhook_events, stream",
    ", batch_id, batch_index, webhook_url, webhook_events, coalesce(stream, false)",
    ", batch_id uuid, batch_index int, webhook_url text, webhook_events text[], stream boolean",
)

_GET = text(f"SELECT {VIEW} FROM jobs j WHERE j.id = ANY(CAST(:ids AS uuid[]))")

_CLAIM = text("""
    WITH j AS (
        SELECT id FROM jobs
        WHERE id = ANY(CAST(:ids AS uuid[])) AND state = 'queued' AND scheduled_at <= now()
          AND (expires_at IS NULL OR expires_at > now()) AND attempt - snoozes < max_attempts
          AND (:through_gate OR NOT EXISTS (SELECT FROM model_gates WHERE model_gates.model = jobs.model))
        -- A batch does not wait for one job that a stopped process holds; that one is published again.
        ORDER BY id FOR UPDATE SKIP LOCKED
    ), claimed AS (
        UPDATE jobs SET state = 'running', attempt = attempt + 1, version = version + 1,
            started_at = coalesce(started_at, now()), waiting_reason = NULL, published_at = NULL,
            lease_owner = :worker, deadline_at = now() + make_interval(secs => timeout_seconds + :grace),
            lease_until = now() + make_interval(secs => least(:lease, timeout_seconds + :grace))
        FROM j WHERE jobs.id = j.id
        RETURNING jobs.*
    ), attempt AS (
        INSERT INTO attempts (job_id, number, project_id, worker, sent_at)
        SELECT id, attempt, project_id, :worker,
               CASE WHEN kind = ANY(CAST(:noted AS text[])) AND on_unknown = 'retry' THEN clock_timestamp() END
        FROM claimed
    ), event AS (
        INSERT INTO job_events (project_id, job_id, version, type, data)
        SELECT project_id, id, version, 'job.running', jsonb_build_object('attempt', attempt) FROM claimed
    )
    SELECT id, project_id, kind, model, input, attempt, snoozes, max_attempts, timeout_seconds, on_unknown, stream,
           request_id,
           :through_gate AS gated, kind = ANY(CAST(:noted AS text[])) AND on_unknown = 'retry' AS noted
    FROM claimed
""")

_SENT = text("""
    WITH call AS (
        SELECT * FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(job_id uuid, number int, estimate numeric)
        ORDER BY job_id
    ), j AS (
        SELECT call.* FROM call CROSS JOIN LATERAL (
            SELECT FROM jobs
            WHERE id = call.job_id AND state = 'running' AND attempt = call.number AND cancel_requested_at IS NULL
              AND lease_until > now()
            FOR SHARE SKIP LOCKED) AS job
        -- Whoever closes an attempt changes its job, which is locked by now.
        CROSS JOIN LATERAL (
            SELECT FROM attempts WHERE job_id = call.job_id AND number = call.number AND outcome IS NULL OFFSET 0) AS open
    )
    UPDATE attempts SET sent_at = clock_timestamp(), estimated_cost_usd = j.estimate
    FROM j WHERE attempts.job_id = j.job_id AND attempts.number = j.number
    RETURNING attempts.job_id
""")

_RENEW = text("""
    WITH held AS (
        SELECT * FROM unnest(CAST(:ids AS uuid[]), CAST(:numbers AS int[])) AS r(id, number) ORDER BY id
    ), j AS (
        -- What somebody else has locked is not rescued either; the leases of the others must not run out for it.
        SELECT job.id FROM held CROSS JOIN LATERAL (
            SELECT id FROM jobs WHERE id = held.id AND state = 'running' AND attempt = held.number
            FOR NO KEY UPDATE SKIP LOCKED) AS job
    ), renewed AS (
        UPDATE jobs
        SET lease_until = greatest(lease_until, least(now() + make_interval(secs => :lease), deadline_at))
        FROM j WHERE jobs.id = j.id
        RETURNING jobs.id, jobs.cancel_requested_at
    ), seen AS (
        SELECT job.* FROM held CROSS JOIN LATERAL (
            SELECT id, cancel_requested_at FROM jobs WHERE id = held.id AND state = 'running' AND attempt = held.number
            OFFSET 0) AS job
    )
    SELECT id, bool_or(cancel_requested_at IS NOT NULL) AS cancel, bool_or(extended) AS extended
    FROM (SELECT *, true AS extended FROM renewed UNION ALL SELECT *, false FROM seen) AS found
    GROUP BY id
""")

_FINISH = text("""
    WITH row AS (
        SELECT * FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(
            job_id uuid, number int, state text, outcome text, counted bool, answered bool, not_called bool,
            estimate numeric, result jsonb, error jsonb, delay float8, waiting_reason text, provider text, upstream_model text,
            model_version text, upstream_request_id text, usage jsonb, cost numeric, event text, data jsonb)
        ORDER BY job_id
    ), j AS (
        -- What would wait for another attempt ends here where a cancel was asked for meanwhile.
        SELECT row.*, called_off,
            CASE WHEN called_off THEN 'cancelled' ELSE row.state END AS new_state,
            CASE WHEN called_off THEN 'job.cancelled' ELSE row.event END AS new_event
        FROM row CROSS JOIN LATERAL (
            SELECT cancel_requested_at FROM jobs WHERE id = row.job_id AND state = 'running' AND attempt = row.number
            FOR UPDATE SKIP LOCKED) AS job
        CROSS JOIN LATERAL (SELECT row.state = 'queued' AND job.cancel_requested_at IS NOT NULL) AS c(called_off)
    ), finished AS (
        UPDATE jobs SET state = j.new_state, version = version + 1, result = j.result, error = j.error,
            snoozes = snoozes + CASE WHEN j.counted THEN 0 ELSE 1 END,
            scheduled_at = CASE WHEN j.new_state = 'queued' THEN now() + make_interval(secs => j.delay)
                                ELSE scheduled_at END,
            waiting_reason = CASE WHEN j.new_state = 'queued' THEN j.waiting_reason END,
            finished_at = CASE WHEN j.new_state <> 'queued' THEN now() END,
            lease_until = NULL, lease_owner = NULL, deadline_at = NULL, published_at = NULL,
            provider = coalesce(j.provider, jobs.provider),
            upstream_model = coalesce(j.upstream_model, jobs.upstream_model),
            model_version = coalesce(j.model_version, jobs.model_version),
            usage = coalesce(j.usage, jobs.usage), cost_usd = cost_usd + j.cost
        FROM j WHERE jobs.id = j.job_id
        RETURNING jobs.id, jobs.project_id, jobs.version, jobs.state, jobs.attempt, jobs.scheduled_at,
                  j.new_event, j.called_off, j.not_called, j.data
    ), attempt AS (
        UPDATE attempts SET outcome = j.outcome, counted = j.counted, error = j.error,
            -- A server that crashed, or a standby that took over, may have lost the note of the call, though it
            -- had been committed: whoever has the answer knows better.
            -- A note that came with the claim is taken back by who knows that no call followed.
            sent_at = CASE WHEN j.answered OR j.outcome = 'unknown' THEN coalesce(sent_at, claimed_at)
                           WHEN j.not_called THEN NULL ELSE sent_at END,
            estimated_cost_usd = coalesce(estimated_cost_usd, j.estimate),
            finished_at = now(), answered_at = CASE WHEN j.answered THEN now() END,
            provider = j.provider, model_version = j.model_version,
            upstream_request_id = j.upstream_request_id, usage = j.usage, cost_usd = j.cost
        FROM j WHERE attempts.job_id = j.job_id AND attempts.number = j.number
    ), event AS (
        INSERT INTO job_events (project_id, job_id, version, type, data)
        SELECT finished.project_id, finished.id, finished.version, new_event,
            CASE WHEN finished.state = 'queued'
                     THEN data || jsonb_build_object('scheduled_at', finished.scheduled_at)
                 WHEN called_off
                     THEN (data - 'waiting_reason')
                          || jsonb_build_object('provider_called', a.sent_at IS NOT NULL AND NOT not_called)
                 ELSE data END
        FROM finished JOIN attempts a ON a.job_id = finished.id AND a.number = finished.attempt
    )
    SELECT id, project_id, version, state FROM finished
""")

_PRESENT = text("""
    SELECT job.id, may_call FROM unnest(CAST(:ids AS uuid[]), CAST(:numbers AS int[])) AS held(id, number)
    CROSS JOIN LATERAL (
        SELECT id, cancel_requested_at IS NULL AND lease_until > now() AS may_call
        FROM jobs WHERE id = held.id AND state = 'running' AND attempt = held.number OFFSET 0) AS job
""")


def _cancelling(locked: str = "") -> TextClause:
    return text(f"""
    WITH j AS (
        SELECT id FROM jobs
        WHERE id = ANY(CAST(:ids AS uuid[])) AND project_id = :project_id AND state IN ('queued', 'running')
          AND cancel_requested_at IS NULL
        ORDER BY id FOR UPDATE {locked}
    ), cancelled AS (
        UPDATE jobs SET cancel_requested_at = now(), version = version + 1,
            state = CASE WHEN state = 'queued' THEN 'cancelled' ELSE state END,
            finished_at = CASE WHEN state = 'queued' THEN now() END,
            waiting_reason = NULL, published_at = NULL
        FROM j WHERE jobs.id = j.id
        RETURNING jobs.*
    ), event AS (
        INSERT INTO job_events (project_id, job_id, version, type, data)
        SELECT project_id, id, version,
               CASE WHEN state = 'cancelled' THEN 'job.cancelled' ELSE 'job.cancel_requested' END, '{{}}'
        FROM cancelled
    )
    SELECT {VIEW} FROM cancelled j
""")


_CANCEL = _cancelling()
_CANCEL_FREE = _cancelling("SKIP LOCKED")

#: The most urgent first; among equals those that were tried least, so that no job is every probe of an outage.
_URGENCY = "array_position(ARRAY['interactive', 'standard', 'batch'], priority), attempt - snoozes"

_AT_GATES = text(f"""
    SELECT id, model FROM jobs
    WHERE id = ANY(CAST(:ids AS uuid[])) AND state = 'queued' AND scheduled_at <= now()
      AND EXISTS (SELECT FROM model_gates WHERE model_gates.model = jobs.model)
    ORDER BY {_URGENCY}, created_at, id
""")

#: By the clock and not by ``now()``: a job that is stored between that and this statement's snapshot is not one for later.
_LEFT = text("""
    SELECT wanted.id, coalesce(at_gate, false) AS at_gate
    FROM unnest(CAST(:ids AS uuid[])) AS wanted(id) LEFT JOIN jobs j ON j.id = wanted.id
    LEFT JOIN LATERAL (SELECT EXISTS (SELECT FROM model_gates WHERE model_gates.model = j.model)) AS g(at_gate) ON true
    WHERE j.id IS NULL
       OR j.state = 'queued' AND j.scheduled_at <= clock_timestamp()
          AND (at_gate OR (j.expires_at IS NULL OR j.expires_at > now()) AND j.attempt - j.snoozes < j.max_attempts)
""")

_PARK = text("""
    WITH j AS (
        SELECT id FROM jobs WHERE id = ANY(CAST(:ids AS uuid[])) AND state = 'queued'
        ORDER BY id FOR UPDATE SKIP LOCKED
    )
    UPDATE jobs SET published_at = NULL, waiting_reason = :reason,
        scheduled_at = greatest(scheduled_at, CAST(:until AS timestamptz))
    FROM j WHERE jobs.id = j.id
""")

_PUBLISHED = text("""
    SELECT count(*) FROM jobs WHERE state = 'queued' AND published_at IS NOT NULL AND model = :model
""")

_RELEASE = text(f"""
    WITH j AS (
        SELECT id FROM jobs
        WHERE state = 'queued' AND published_at IS NULL AND scheduled_at <= now() AND model = :model
        ORDER BY {_URGENCY}, created_at, id LIMIT :limit FOR UPDATE SKIP LOCKED
    )
    UPDATE jobs SET published_at = now() FROM j WHERE jobs.id = j.id RETURNING jobs.id, jobs.queue
""")

_DISPATCH_DUE = text("""
    WITH j AS (
        SELECT id FROM jobs
        WHERE state = 'queued' AND published_at IS NULL AND scheduled_at <= now()
          AND NOT EXISTS (SELECT FROM model_gates WHERE model_gates.model = jobs.model)
        ORDER BY scheduled_at LIMIT :limit FOR UPDATE SKIP LOCKED
    )
    UPDATE jobs SET published_at = now() FROM j WHERE jobs.id = j.id RETURNING jobs.id, jobs.queue
""")

_UNPUBLISH = text("""
    WITH j AS (
        SELECT id FROM jobs WHERE id = ANY(CAST(:ids AS uuid[])) AND state = 'queued'
        ORDER BY id FOR UPDATE SKIP LOCKED
    )
    UPDATE jobs SET published_at = NULL FROM j WHERE jobs.id = j.id RETURNING jobs.id
""")

_STALE_QUEUES = text("""
    SELECT queue, count(*) AS waiting,
           count(*) FILTER (WHERE published_at < now() - make_interval(secs => :after)) AS stale
    FROM jobs WHERE state = 'queued' AND published_at IS NOT NULL GROUP BY queue
""")

_REPUBLISH = text("""
    WITH j AS (
        SELECT id FROM jobs
        WHERE state = 'queued' AND queue = :queue AND published_at < now() - make_interval(secs => :after)
        ORDER BY published_at LIMIT :limit FOR UPDATE SKIP LOCKED
    )
    UPDATE jobs SET published_at = now() FROM j WHERE jobs.id = j.id RETURNING jobs.id, jobs.queue
""")

_RECORDED = text("""
    SELECT jobs.id, jobs.project_id, jobs.state FROM jobs JOIN attempts ON attempts.job_id = jobs.id
    WHERE jobs.id = :id AND attempts.number = :number AND attempts.outcome = :outcome
""")

_NOBODY_IS_LOCKED_OUT = text("LOCK TABLE jobs, attempts IN ROW EXCLUSIVE MODE NOWAIT")

#: The first half of the advisory locks by which workers object ("resc" in ASCII); the other is made of the lease's owner.
_OBJECTION = 0x72657363
_OBJECT = text(f"SELECT pg_advisory_xact_lock_shared({_OBJECTION}, hashtext(:owner))")
# The lock's halves are unsigned there.
_OBJECTIONS = text(f"""
    SELECT DISTINCT (objid::bigint - CASE WHEN objid::bigint < 2147483648 THEN 0 ELSE 4294967296 END)::int AS key
    FROM pg_locks JOIN pg_database d ON d.oid = pg_locks.database AND d.datname = current_database()
    WHERE locktype = 'advisory' AND classid = {_OBJECTION} AND objsubid = 2 AND granted
""")

_LOCK_LOST = text("""
    SELECT id AS job_id FROM jobs WHERE state = 'running' AND lease_until < now()
      AND (hashtext(lease_owner) = ANY(CAST(:spared AS int[]))) IS NOT TRUE
    ORDER BY id LIMIT :limit FOR UPDATE SKIP LOCKED
""")

_READ_LOST = text("""
    SELECT j.id AS job_id, j.attempt AS number, j.snoozes, j.max_attempts, j.on_unknown, j.lease_owner,
           j.cancel_requested_at IS NOT NULL AS cancel, a.sent_at IS NOT NULL AS sent,
           a.estimated_cost_usd AS estimate, j.kind, j.model,
           CASE WHEN a.sent_at IS NOT NULL AND a.estimated_cost_usd IS NULL THEN j.input END AS input
    FROM jobs j JOIN attempts a ON a.job_id = j.id AND a.number = j.attempt
    WHERE j.id = ANY(CAST(:ids AS uuid[]))
""")

_EXPIRE = text("""
    WITH j AS (
        SELECT id FROM jobs WHERE state = 'queued' AND expires_at <= now()
        ORDER BY id LIMIT :limit FOR UPDATE SKIP LOCKED
    ), expired AS (
        UPDATE jobs SET state = 'expired', finished_at = now(), version = version + 1,
            waiting_reason = NULL, published_at = NULL
        FROM j WHERE jobs.id = j.id RETURNING jobs.id, jobs.project_id, jobs.version
    ), event AS (
        INSERT INTO job_events (project_id, job_id, version, type, data)
        SELECT project_id, id, version, 'job.expired', '{}' FROM expired
    )
    SELECT id, project_id FROM expired
""")

_RESULT = text(
    "SELECT state, kind, version, result, error FROM jobs WHERE id = :id AND project_id = :project_id"
)

_ATTEMPTS = text("""
    SELECT number, worker, claimed_at, sent_at, answered_at, finished_at, outcome, counted, error, provider,
           model_version, upstream_request_id, usage, estimated_cost_usd, cost_usd
    FROM attempts WHERE job_id = :id ORDER BY number
""")


async def submit(db: Executor, rows: Sequence[dict[str, Any]]) -> list[NewJob]:
    """Inserts jobs, each with its first event. Answers what ``VIEW`` would, in the same order."""
    statement = _SUBMIT_WITH_RARE if any(name in row for row in rows for name in _RARE) else _SUBMIT
    [stored] = await db.execute(statement, {"rows": _json(rows)})
    now, later = stored.now, frozenset(stored.later or ())
    # Nothing is looked up where none is: a UUID's hash is worked out in Python.
    return [_new_job(row, now, later=bool(later) and row["id"] in later) for row in rows]


async def submit_of_batch(db: AsyncConnection, rows: str) -> frozenset[UUID]:
    """Inserts jobs of a batch; answers the ids of those whose time is yet to come.

    Args:
        rows: what ``submit`` takes, with ``batch_id`` and ``batch_index``, as JSON: made one by one, as they are checked.
    """
    [stored] = await db.execute(_SUBMIT_OF_BATCH, {"rows": rows})
    return frozenset(stored.later or ())


def _new_job(row: dict[str, Any], now: datetime, *, later: bool) -> NewJob:
    at = row["scheduled_at"].astimezone(UTC) if row["scheduled_at"] else now
    # In the order in which they are declared: by name it takes twice as long.
    return NewJob(
        row["id"],
        row["project_id"],
        row["kind"],
        row["model"],
        row["priority"],
        row["queue"],
        row["warnings"],
        row["max_attempts"],
        float(row["timeout_seconds"]),
        row["on_unknown"],
        now,
        at,
        row["expires_at"].astimezone(UTC) if row["expires_at"] else None,
        "scheduled" if later else None,
        at if later else None,
        row.get("tags") or [],
        row.get("metadata") or {},
        row.get("replay_of"),
        row.get("keep_seconds"),
        row.get("stream", False),
        row.get("request_id"),
    )


async def get(db: Executor, ids: Sequence[UUID]) -> dict[UUID, Row[Any]]:
    """The rows of ``VIEW`` by id; what does not exist is not in the answer."""
    return {row.id: row for row in await db.execute(_GET, {"ids": list(ids)})}


async def claim(
    db: Executor,
    ids: Sequence[UUID],
    *,
    worker: str,
    lease: float,
    grace: float,
    noted: Sequence[str] = (),
    through_gate: bool = False,
) -> dict[UUID, Row[Any]]:
    """Takes those jobs that may run now, opens an attempt of each and answers what a worker needs.

    Args:
        lease: seconds until the claim must be renewed.
        grace: seconds beyond the job's timeout in which its answer may still be recorded.
        noted: kinds whose call follows at once. Where a job's policy does not ask for more, its claim counts as the
            note that it is sent, which ``noted`` in its row says: one commit less.
        through_gate: the caller holds the model's gate and lets these through; without it, jobs of a
            model with a gate are left alone.
    """
    parameters = {
        "ids": list(ids),
        "worker": worker,
        "lease": lease,
        "grace": grace,
        "noted": list(noted),
        "through_gate": through_gate,
    }
    return {row.id: row for row in await db.execute(_CLAIM, parameters)}


async def at_gates(db: Executor, ids: Sequence[UUID]) -> list[Row[Any]]:
    """Those of the jobs that could run but for their model's gate, the most urgent first: ``id``, ``model``."""
    return list(await db.execute(_AT_GATES, {"ids": list(ids)}))


async def left(db: Executor, ids: Sequence[UUID]) -> dict[UUID, bool]:
    """Of jobs that a claim passed over, those that one may yet get, and whether only through their model's gate.

    The others are not stored yet, were stored since, or were locked.
    """
    return {row.id: row.at_gate for row in await db.execute(_LEFT, {"ids": list(ids)})}


async def park(db: AsyncConnection, ids: Sequence[UUID], *, until: datetime | None, reason: str) -> None:
    """Sends jobs back to wait for their model's gate; beat releases them when it opens.

    One that is passed over counts as published, so its message is missed and sent again.
    """
    await db.execute(_PARK, {"ids": list(ids), "until": until, "reason": reason})


async def published(db: AsyncConnection, model: str) -> int:
    """How many of a model's queued jobs a worker has been told about."""
    count: int = (await db.execute(_PUBLISHED, {"model": model})).scalar_one()
    return count


async def release(db: AsyncConnection, model: str, *, limit: int) -> list[tuple[UUID, str]]:
    """Takes due jobs of a model with a gate, the most urgent first, to tell workers about them."""
    return [(row.id, row.queue) for row in await db.execute(_RELEASE, {"model": model, "limit": limit})]


async def mark_sent(db: Executor, rows: Sequence[dict[str, Any]]) -> set[UUID]:
    """Notes that the provider is about to be called. A job not in the answer must not be called: see ``present``.

    The shared lock keeps a rescue away until this has committed, so the rescue sees ``sent_at``.
    """
    return {row.job_id for row in await db.execute(_SENT, {"rows": _json(rows)})}


class Renewal(NamedTuple):
    """An attempt that is still its job's present one."""

    #: A cancel is asked for.
    cancel: bool
    #: The lease was extended; not where somebody has the row locked.
    extended: bool


async def renew(db: Executor, held: Sequence[tuple[UUID, int]], *, lease: float) -> dict[UUID, Renewal]:
    """Extends leases, never beyond a deadline.

    A job not in the answer is no longer this attempt's: its work must stop.
    """
    parameters = {"ids": [job for job, _ in held], "numbers": [number for _, number in held], "lease": lease}
    return {row.id: Renewal(row.cancel, row.extended) for row in await db.execute(_RENEW, parameters)}


async def finish(db: Executor, rows: Sequence[dict[str, Any]]) -> dict[UUID, Row[Any]]:
    """Ends attempts: to a final state, or back to queued. Answers what was written, by job.

    A row whose attempt is not the present one (fenced out) changes nothing and is not in the answer; nor is one that
    was passed over: see ``present``.
    """
    return {row.id: row for row in await db.execute(_FINISH, {"rows": _json(rows)})}


async def recorded(db: Executor, job_id: UUID, number: int, outcome: str) -> Row[Any] | None:
    """The job's ``id``, ``project_id`` and ``state``, where this attempt of its has ended with that outcome."""
    rows = await db.execute(_RECORDED, {"id": job_id, "number": number, "outcome": outcome})
    return next(iter(rows), None)


async def present(db: Executor, attempts: Sequence[tuple[UUID, int]]) -> dict[UUID, bool]:
    """Which of these attempts are still their job's present one, and whether each may call the provider.

    What ``finish`` or ``mark_sent`` did not answer though it could have was passed over: somebody has it locked.
    """
    parameters = {"ids": [job for job, _ in attempts], "numbers": [number for _, number in attempts]}
    return {row.id: row.may_call for row in await db.execute(_PRESENT, parameters)}


async def cancel(db: AsyncConnection, project_id: UUID, job_id: UUID) -> Row[Any] | None:
    """Cancels a queued job, or asks the worker of a running one to stop. None: neither, or asked before."""
    return next(iter(await cancel_many(db, project_id, [job_id])), None)


async def cancel_many(db: AsyncConnection, project_id: UUID, ids: Sequence[UUID]) -> list[Row[Any]]:
    """Likewise for many; answers those that it changed."""
    return list(await db.execute(_CANCEL, {"ids": list(ids), "project_id": project_id}))


async def cancel_free(db: AsyncConnection, project_id: UUID, ids: Sequence[UUID]) -> list[Row[Any]]:
    """Likewise, but for those that somebody has locked: those are for another time."""
    return list(await db.execute(_CANCEL_FREE, {"ids": list(ids), "project_id": project_id}))


async def dispatch_due(db: AsyncConnection, *, limit: int) -> list[tuple[UUID, str]]:
    """Takes jobs whose time has come and whom nobody was told about, but for models with a gate."""
    return [(row.id, row.queue) for row in await db.execute(_DISPATCH_DUE, {"limit": limit})]


async def unpublish(db: AsyncConnection, ids: Sequence[UUID]) -> set[UUID]:
    """Notes that a message was not sent after all; the next dispatch sends it. For one passed over: see ``park``.

    Answers the ids of those noted.
    """
    return {row.id for row in await db.execute(_UNPUBLISH, {"ids": list(ids)})}


async def stale_queues(db: AsyncConnection, *, after: float) -> list[tuple[str, int, int]]:
    """For each queue: how many published jobs wait, and how many of them for more than ``after`` seconds."""
    return [(row.queue, row.waiting, row.stale) for row in await db.execute(_STALE_QUEUES, {"after": after})]


async def republish(db: AsyncConnection, queue: str, *, after: float, limit: int) -> list[tuple[UUID, str]]:
    """Takes those published longest ago, for another message each."""
    parameters = {"queue": queue, "after": after, "limit": limit}
    return [(row.id, row.queue) for row in await db.execute(_REPUBLISH, parameters)]


async def lock_lost(db: AsyncConnection, *, limit: int, spared: Sequence[int] = ()) -> list[Row[Any]]:
    """Locks running jobs whose lease ran out and reads how far each had come.

    Two statements on purpose: the second has a fresh snapshot, taken while the locks are held, so
    it sees a ``sent_at`` that was being committed when the first one started.

    Args:
        spared: whose jobs are left alone, as ``objections`` names them.

    Raises:
        sqlalchemy.exc.DBAPIError: a migration, say, has locked the table. Nobody can renew meanwhile, so nothing that
            a wait for it would find is lost: whoever holds the leases must come first.
    """
    await db.execute(_NOBODY_IS_LOCKED_OUT)
    ids = [row.job_id for row in await db.execute(_LOCK_LOST, {"limit": limit, "spared": list(spared)})]
    if not ids:
        return []
    return list(await db.execute(_READ_LOST, {"ids": ids}))


async def object_to_rescue(db: Executor, owner: str) -> None:
    """Has ``objections`` name the owner of leases until the transaction ends. Again is fine, and a sign of life."""
    await db.execute(_OBJECT, {"owner": owner})


async def objections(db: AsyncConnection) -> list[int]:
    """Who objects now, as numbers that stand for owners of leases."""
    return [row.key for row in await db.execute(_OBJECTIONS)]


async def expire(db: AsyncConnection, *, limit: int) -> list[Row[Any]]:
    """Ends queued jobs whose ``expires_at`` has passed; answers ``id`` and ``project_id`` of each."""
    return list(await db.execute(_EXPIRE, {"limit": limit}))


async def result(db: AsyncConnection, project_id: UUID, job_id: UUID) -> Row[Any] | None:
    return (await db.execute(_RESULT, {"id": job_id, "project_id": project_id})).one_or_none()


async def attempts(db: AsyncConnection, job_id: UUID) -> list[Row[Any]]:
    return list(await db.execute(_ATTEMPTS, {"id": job_id}))


def _json(rows: Sequence[dict[str, Any]]) -> str:
    return orjson.dumps(rows, default=str).decode()
