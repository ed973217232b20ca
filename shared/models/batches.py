"""Batches: many jobs that one request made."""

from __future__ import annotations

from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, Index, Numeric, Text, desc, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Mapped, mapped_column

from shared.models.base import Base, CreatedAt, ProjectId, Timestamp


class Batch(Base):
    """What the jobs with its ``batch_id`` have in common. Written when they are made, cancelled, and all final."""

    __tablename__ = "batches"
    __table_args__ = (
        CheckConstraint("total > 0", name="total_positive"),
        CheckConstraint(
            "num_nonnulls(completed_at, counts, cost_usd) IN (0, 3)", name="counted_iff_completed"
        ),
        Index("ix_batches_newest", "project_id", desc("created_at"), desc("id")),
        Index("ix_batches_open", "id", postgresql_where=text("completed_at IS NULL")),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    project_id: Mapped[ProjectId]
    #: Jobs that were made; some may have been deleted since.
    total: Mapped[int]
    tags: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'::text[]"))
    labels: Mapped[dict[str, str]] = mapped_column("metadata", JSONB, server_default=text("'{}'::jsonb"))
    created_at: Mapped[CreatedAt]
    #: From here on beat cancels what is left of it.
    cancel_requested_at: Mapped[Timestamp | None]
    #: When all of its jobs were seen to be final.
    completed_at: Mapped[Timestamp | None]
    #: Jobs by state, and their cost, as of then.
    counts: Mapped[dict[str, Any] | None] = mapped_column(JSONB)
    cost_usd: Mapped[Decimal | None] = mapped_column(Numeric(20, 8))
