"""Jobs, their attempts, and the sequence of what happened to them."""

from __future__ import annotations

from decimal import Decimal
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    Numeric,
    SmallInteger,
    Text,
    UniqueConstraint,
    desc,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Mapped, mapped_column

from shared.models.base import Base, CreatedAt, Json, ProjectId, Timestamp, one_of

STATES = ("queued", "running", "succeeded", "failed", "cancelled", "expired")
FINAL_STATES = ("succeeded", "failed", "cancelled", "expired")
OUTCOMES = ("succeeded", "failed", "cancelled", "lost", "unknown")
PRIORITIES = ("interactive", "standard", "batch")
#: Reasons that are stored; ``in_queue`` and ``no_workers`` are worked out when a job is read.
STORED_WAITING_REASONS = (
    "scheduled",
    "retry_backoff",
    "rate_limited",
    "provider_unavailable",
    "project_limit",
)


class Job(Base):
    """One generation that a client asked for.

    ``attempt`` counts claims and is the fence: a write from an earlier attempt changes nothing.
    ``snoozes`` counts those of them that used up no attempt, such as a rate limit.
    ``lease_until`` is in no index, so that a renewal stays a heap-only update.
    """

    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint(one_of("state", STATES), name="state_known"),
        CheckConstraint(one_of("priority", PRIORITIES), name="priority_known"),
        CheckConstraint(one_of("on_unknown", ("retry", "fail")), name="on_unknown_known"),
        CheckConstraint(one_of("waiting_reason", STORED_WAITING_REASONS), name="waiting_reason_known"),
        CheckConstraint(
            f"({one_of('state', FINAL_STATES)}) = (finished_at IS NOT NULL)", name="finished_at_iff_final"
        ),
        # All three or none: a lease without an owner, or left behind on a queued job, is a bug somewhere.
        CheckConstraint(
            "num_nonnulls(lease_until, lease_owner, deadline_at) = CASE WHEN state = 'running' THEN 3 ELSE 0 END",
            name="lease_iff_running",
        ),
        CheckConstraint("lease_until <= deadline_at", name="lease_within_deadline"),
        CheckConstraint("(state = 'succeeded') = (result IS NOT NULL)", name="result_iff_succeeded"),
        CheckConstraint("state <> 'failed' OR error IS NOT NULL", name="failed_has_error"),
        CheckConstraint("waiting_reason IS NULL OR state = 'queued'", name="waiting_only_queued"),
        CheckConstraint("attempt >= 0 AND snoozes >= 0 AND snoozes <= attempt", name="attempts_counted"),
        CheckConstraint("max_attempts BETWEEN 1 AND 20", name="max_attempts_range"),
        CheckConstraint("attempt - snoozes <= max_attempts", name="attempts_within_max"),
        CheckConstraint("timeout_seconds > 0", name="timeout_positive"),
        CheckConstraint("keep_seconds > 0", name="keep_positive"),
        CheckConstraint("cost_usd >= 0", name="cost_not_negative"),
        CheckConstraint("(webhook_url IS NULL) = (webhook_events IS NULL)", name="webhook_whole"),
        CheckConstraint("(batch_id IS NULL) = (batch_index IS NULL)", name="index_iff_batch"),
        Index("ix_jobs_project_newest", "project_id", desc("created_at"), desc("id")),
        Index(
            "ix_jobs_due", "scheduled_at", postgresql_where=text("state = 'queued' AND published_at IS NULL")
        ),
        Index(
            "ix_jobs_published",
            "queue",
            "published_at",
            postgresql_where=text("state = 'queued' AND published_at IS NOT NULL"),
        ),
        Index(
            "ix_jobs_expiring",
            "expires_at",
            postgresql_where=text("state = 'queued' AND expires_at IS NOT NULL"),
        ),
        # Not a column, so that no transition needs to know of it.
        Index(
            "ix_jobs_kept_until",
            text("((finished_at AT TIME ZONE 'UTC'::text) + make_interval(secs => keep_seconds))"),
            postgresql_where=text("finished_at IS NOT NULL AND keep_seconds IS NOT NULL"),
        ),
        Index("ix_jobs_running", "id", postgresql_where=text("state = 'running'")),
        # Lists read it in order, one branch for each combination; written once a job, at its end.
        Index(
            "ix_jobs_final",
            "project_id",
            "state",
            "kind",
            "model",
            "priority",
            desc("created_at"),
            desc("id"),
            postgresql_where=text(one_of("state", FINAL_STATES)),
        ),
        Index("ix_jobs_finished", "finished_at", postgresql_where=text("finished_at IS NOT NULL")),
        # In the order of the batch, and by state to count it: for jobs of a batch alone.
        Index("ix_jobs_batch", "batch_id", "id", postgresql_where=text("batch_id IS NOT NULL")),
        Index("ix_jobs_batch_state", "batch_id", "state", postgresql_where=text("batch_id IS NOT NULL")),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    project_id: Mapped[ProjectId]
    kind: Mapped[str] = mapped_column(Text)
    #: The alias asked for; what served it is in ``upstream_model`` and ``model_version``.
    model: Mapped[str] = mapped_column(Text)
    priority: Mapped[str] = mapped_column(Text, server_default="standard")
    queue: Mapped[str] = mapped_column(Text)
    #: As validated, with defaults filled in; input images are artifacts and stand here by id.
    input: Mapped[Json]
    #: What the client should know about its request, such as a parameter without effect.
    warnings: Mapped[list[object]] = mapped_column(JSONB, server_default=text("'[]'::jsonb"))
    #: Words and pairs of the client's own, for lists; ``job_labels`` holds them once more, to be found by.
    tags: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'::text[]"))
    labels: Mapped[dict[str, str]] = mapped_column("metadata", JSONB, server_default=text("'{}'::jsonb"))

    state: Mapped[str] = mapped_column(Text, server_default="queued")
    #: Goes up with every event; the ETag.
    version: Mapped[int] = mapped_column(server_default="1")
    attempt: Mapped[int] = mapped_column(server_default="0")
    snoozes: Mapped[int] = mapped_column(server_default="0")
    max_attempts: Mapped[int] = mapped_column(SmallInteger)
    #: How long one attempt may take.
    timeout_seconds: Mapped[float] = mapped_column(Double)
    on_unknown: Mapped[str] = mapped_column(Text, server_default="retry")

    #: The job that this one repeats; it may be gone.
    replay_of: Mapped[UUID | None]
    #: The ``X-Request-ID`` of the submit: what ties the lines of the API's log to those of workers.
    request_id: Mapped[str | None] = mapped_column(Text)
    #: The batch that it came with, and its place there, from 0. No foreign key: checking it would cost every submit.
    batch_id: Mapped[UUID | None]
    batch_index: Mapped[int | None]
    #: How long it is kept once it is final; None means for ever.
    keep_seconds: Mapped[float | None] = mapped_column(Double)
    #: Where its own webhooks go, and which events are told there.
    webhook_url: Mapped[str | None] = mapped_column(Text)
    webhook_events: Mapped[list[str] | None] = mapped_column(ARRAY(Text))
    stream: Mapped[bool] = mapped_column(Boolean, server_default=text("false"))

    created_at: Mapped[CreatedAt]
    #: Not before this.
    scheduled_at: Mapped[Timestamp] = mapped_column(server_default=func.now())
    #: When a message was last sent for it; None means that nobody has been told yet.
    published_at: Mapped[Timestamp | None]
    started_at: Mapped[Timestamp | None]
    finished_at: Mapped[Timestamp | None]
    #: Still waiting by then, for its start or for a retry, means expired.
    expires_at: Mapped[Timestamp | None]
    cancel_requested_at: Mapped[Timestamp | None]
    waiting_reason: Mapped[str | None] = mapped_column(Text)

    lease_until: Mapped[Timestamp | None]
    lease_owner: Mapped[str | None] = mapped_column(Text)
    #: No renewal goes beyond this, or a hung call would live for ever.
    deadline_at: Mapped[Timestamp | None]

    result: Mapped[Json | None]
    #: Of the last attempt that went wrong: ``{code, message, …}``. Stays while a retry waits.
    error: Mapped[Json | None]
    provider: Mapped[str | None] = mapped_column(Text)
    upstream_model: Mapped[str | None] = mapped_column(Text)
    model_version: Mapped[str | None] = mapped_column(Text)
    usage: Mapped[Json | None]
    #: Of all attempts together; those of unknown outcome count with their estimate.
    cost_usd: Mapped[Decimal] = mapped_column(Numeric(14, 8), server_default="0")


class Attempt(Base):
    """One claim of a job by a worker."""

    __tablename__ = "attempts"
    __table_args__ = (
        CheckConstraint(one_of("outcome", OUTCOMES), name="outcome_known"),
        CheckConstraint("(outcome IS NULL) = (finished_at IS NULL)", name="outcome_iff_finished"),
        CheckConstraint("answered_at IS NULL OR sent_at IS NOT NULL", name="answered_after_sent"),
        CheckConstraint("outcome <> 'lost' OR sent_at IS NULL", name="lost_was_not_sent"),
        CheckConstraint("outcome <> 'unknown' OR sent_at IS NOT NULL", name="unknown_was_sent"),
        Index(
            "uq_attempts_one_success", "job_id", unique=True, postgresql_where=text("outcome = 'succeeded'")
        ),
        Index("uq_attempts_one_open", "job_id", unique=True, postgresql_where=text("outcome IS NULL")),
    )

    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    #: As its job has it: that one refers to the project, and a second reference would be looked up with each row.
    project_id: Mapped[UUID]
    worker: Mapped[str] = mapped_column(Text)
    claimed_at: Mapped[CreatedAt]
    #: Written just before the provider is called; from then on it may be billed.
    sent_at: Mapped[Timestamp | None]
    answered_at: Mapped[Timestamp | None]
    finished_at: Mapped[Timestamp | None]
    outcome: Mapped[str | None] = mapped_column(Text)
    #: False where it used up none of ``max_attempts``.
    counted: Mapped[bool] = mapped_column(server_default=text("true"))
    error: Mapped[Json | None]
    provider: Mapped[str | None] = mapped_column(Text)
    model_version: Mapped[str | None] = mapped_column(Text)
    upstream_request_id: Mapped[str | None] = mapped_column(Text)
    usage: Mapped[Json | None]
    #: What the call would cost, noted before it goes out.
    estimated_cost_usd: Mapped[Decimal | None] = mapped_column(Numeric(14, 8))
    #: What it did cost, or the estimate where nobody can know.
    cost_usd: Mapped[Decimal] = mapped_column(Numeric(14, 8), server_default="0")


class JobEvent(Base):
    """One transition; ``version`` numbers a job's events without a gap. What is about a batch, or a notice to a
    project, has no job."""

    __tablename__ = "job_events"
    __table_args__ = (
        UniqueConstraint("job_id", "version"),
        ForeignKeyConstraint(["job_id"], ["jobs.id"], ondelete="CASCADE"),
        CheckConstraint("(job_id IS NULL) = (version IS NULL)", name="version_iff_job"),
        CheckConstraint("job_id IS NULL OR batch_id IS NULL", name="of_one"),
        Index("ix_job_events_project_id_id", "project_id", "id"),
        Index("ix_job_events_batch", "batch_id", postgresql_where=text("batch_id IS NOT NULL")),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    #: No reference, which would be looked up with each row: its job has one. (A batch's event and a notice have none.)
    project_id: Mapped[UUID]
    job_id: Mapped[UUID | None]
    version: Mapped[int | None]
    batch_id: Mapped[UUID | None]
    type: Mapped[str] = mapped_column(Text)
    data: Mapped[Json]
    created_at: Mapped[CreatedAt]
