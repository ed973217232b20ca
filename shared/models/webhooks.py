"""Where webhooks go, what signs them, and the ledger of what was sent."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Double,
    ForeignKey,
    Index,
    LargeBinary,
    SmallInteger,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from shared.models.base import Base, CreatedAt, ProjectId, Timestamp, one_of

DELIVERY_STATES = ("pending", "delivered", "failed")


class WebhookEndpoint(Base):
    """An address that a project wants to hear of its events at.

    One row of a project has no ``url``: it stands for the addresses that jobs name themselves (``webhook_url``), and
    holds the secret that signs those.
    """

    __tablename__ = "webhook_endpoints"
    __table_args__ = (
        CheckConstraint("cardinality(events) > 0", name="events_not_empty"),
        CheckConstraint("(disabled_at IS NULL) = (disabled_reason IS NULL)", name="disabled_for_a_reason"),
        CheckConstraint(
            "url IS NOT NULL OR num_nonnulls(paused_at, disabled_at, failing_since) = 0",
            name="jobs_always_on",
        ),
        Index("ix_webhook_endpoints_project_id", "project_id"),
        Index(
            "uq_webhook_endpoints_of_jobs", "project_id", unique=True, postgresql_where=text("url IS NULL")
        ),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    project_id: Mapped[ProjectId]
    url: Mapped[str | None] = mapped_column(Text)
    events: Mapped[list[str]] = mapped_column(ARRAY(Text))
    description: Mapped[str] = mapped_column(Text, server_default="")
    #: Events up to this one are not for it: they were there before it, or while it was disabled.
    since_event: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[CreatedAt]
    updated_at: Mapped[CreatedAt]
    #: Deliveries are made and wait.
    paused_at: Mapped[Timestamp | None]
    #: No deliveries are made.
    disabled_at: Mapped[Timestamp | None]
    disabled_reason: Mapped[str | None] = mapped_column(Text)
    #: The first failure after the last success.
    failing_since: Mapped[Timestamp | None]


class WebhookSecret(Base):
    """A key that signs. It is kept as it is, as the signer needs it; nothing but signing reads this table's ``secret``."""

    __tablename__ = "webhook_secrets"
    __table_args__ = (
        CheckConstraint("octet_length(secret) BETWEEN 24 AND 64", name="secret_length"),
        Index("ix_webhook_secrets_endpoint_id", "endpoint_id"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    project_id: Mapped[ProjectId]
    endpoint_id: Mapped[UUID] = mapped_column(ForeignKey("webhook_endpoints.id", ondelete="CASCADE"))
    secret: Mapped[bytes] = mapped_column(LargeBinary)
    created_at: Mapped[CreatedAt]
    #: Set when another one takes its place: until then both sign.
    expires_at: Mapped[Timestamp | None]


class WebhookDelivery(Base):
    """One message to one address, until it is there or was tried for the last time; ``id`` is its ``webhook-id``."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        CheckConstraint(one_of("state", DELIVERY_STATES), name="state_known"),
        CheckConstraint("(state = 'pending') = (finished_at IS NULL)", name="finished_iff_not_pending"),
        CheckConstraint("failures >= 0 AND attempt >= 0", name="attempts_counted"),
        # An event reaches an endpoint as one message, whoever makes it, and however often.
        UniqueConstraint("endpoint_id", "event_id"),
        Index(
            "ix_webhook_deliveries_due",
            "endpoint_id",
            "lane",
            "due_at",
            postgresql_where=text("state = 'pending'"),
        ),
        Index("ix_webhook_deliveries_project_id_id", "project_id", "id"),
        Index("ix_webhook_deliveries_endpoint_id_id", "endpoint_id", "id"),
        Index("ix_webhook_deliveries_job_id", "job_id", postgresql_where=text("job_id IS NOT NULL")),
        Index("ix_webhook_deliveries_created_at", "created_at"),
        # What everybody asks the ledger first; of millions that arrived, few.
        Index("ix_webhook_deliveries_failed", "project_id", "id", postgresql_where=text("state = 'failed'")),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    project_id: Mapped[ProjectId]
    endpoint_id: Mapped[UUID] = mapped_column(ForeignKey("webhook_endpoints.id", ondelete="CASCADE"))
    #: What it tells of; a ping tells of nothing.
    event_id: Mapped[int | None] = mapped_column(BigInteger)
    #: Whose job's event that was. No reference: a message outlives a job that was kept for a minute.
    job_id: Mapped[UUID | None]
    type: Mapped[str] = mapped_column(Text)
    #: The job's own address; otherwise it goes to its endpoint's, as that is when it is sent.
    url: Mapped[str | None] = mapped_column(Text)
    #: Deliveries of an endpoint share its connections; those to jobs' own addresses do so by their origin
    #: (``worker.webhooks.feed.lane_of``).
    lane: Mapped[str] = mapped_column(Text, server_default="")
    #: The bytes that are signed and sent.
    body: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(Text, server_default="pending")
    #: Counts sendings, and is their fence.
    attempt: Mapped[int] = mapped_column(server_default="0")
    #: How often it went wrong since it was made or asked for again: the place in the schedule.
    failures: Mapped[int] = mapped_column(server_default="0")
    #: When it is sent next. While it is being sent: when somebody else may, because the sender must have vanished.
    due_at: Mapped[Timestamp] = mapped_column(server_default=func.now())
    created_at: Mapped[CreatedAt]
    finished_at: Mapped[Timestamp | None]
    last_status: Mapped[int | None] = mapped_column(SmallInteger)
    last_error: Mapped[str | None] = mapped_column(Text)


class WebhookAttempt(Base):
    """One sending. Without a duration it is under way, or its sender vanished."""

    __tablename__ = "webhook_attempts"

    delivery_id: Mapped[UUID] = mapped_column(
        ForeignKey("webhook_deliveries.id", ondelete="CASCADE"), primary_key=True
    )
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    project_id: Mapped[UUID]
    started_at: Mapped[CreatedAt]
    duration_ms: Mapped[float | None] = mapped_column(Double)
    status: Mapped[int | None] = mapped_column(SmallInteger)
    #: The first bytes of what was answered.
    answer: Mapped[str | None] = mapped_column(Text)
    error: Mapped[str | None] = mapped_column(Text)


class WebhookProgress(Base):
    """One row: up to which event deliveries have been made."""

    __tablename__ = "webhook_progress"
    __table_args__ = (CheckConstraint("one", name="only_one"),)

    one: Mapped[bool] = mapped_column(Boolean, primary_key=True, server_default=text("true"))
    through_event: Mapped[int] = mapped_column(BigInteger)
