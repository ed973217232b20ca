"""What lists, search and the summary read besides the jobs themselves."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, DateTime, ForeignKey, Index, Numeric, Text, desc
from sqlalchemy.orm import Mapped, mapped_column

from shared.models.base import Base, ProjectId, Timestamp, one_of
from shared.models.jobs import FINAL_STATES


class JobLabel(Base):
    """One tag (``#tag``) or one pair of metadata (``key=value``) of a job; written with it and never changed."""

    __tablename__ = "job_labels"
    __table_args__ = (
        Index("ix_job_labels_newest", "project_id", "label", desc("created_at"), desc("job_id")),
    )

    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    label: Mapped[str] = mapped_column(Text, primary_key=True)
    project_id: Mapped[UUID]
    #: The job's.
    created_at: Mapped[Timestamp]


class JobPrompt(Base):
    """The beginning of a job's prompt, for search: copied by beat, so that a submit pays nothing for its index."""

    __tablename__ = "job_prompts"
    __table_args__ = (
        Index(
            "ix_job_prompts_trigrams",
            "prompt",
            postgresql_using="gin",
            postgresql_ops={"prompt": "gin_trgm_ops"},
        ),
    )

    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    project_id: Mapped[UUID]
    #: The job's.
    created_at: Mapped[Timestamp]
    prompt: Mapped[str] = mapped_column(Text)


class JobTotals(Base):
    """How many jobs ended in an hour, and what they cost. Counted by beat; stays when jobs are deleted."""

    __tablename__ = "job_totals"
    __table_args__ = (CheckConstraint(one_of("state", FINAL_STATES), name="state_final"),)

    project_id: Mapped[ProjectId] = mapped_column(primary_key=True)
    hour: Mapped[datetime] = mapped_column(DateTime(timezone=True), primary_key=True)
    kind: Mapped[str] = mapped_column(Text, primary_key=True)
    model: Mapped[str] = mapped_column(Text, primary_key=True)
    state: Mapped[str] = mapped_column(Text, primary_key=True)
    jobs: Mapped[int] = mapped_column(BigInteger)
    cost_usd: Mapped[Decimal] = mapped_column(Numeric(20, 8))


class JobDailyTotals(Base):
    """The hours of ``JobTotals`` added up by day (UTC), for days that are over."""

    __tablename__ = "job_daily_totals"
    __table_args__ = (CheckConstraint(one_of("state", FINAL_STATES), name="state_final"),)

    project_id: Mapped[ProjectId] = mapped_column(primary_key=True)
    day: Mapped[datetime] = mapped_column(DateTime(timezone=True), primary_key=True)
    kind: Mapped[str] = mapped_column(Text, primary_key=True)
    model: Mapped[str] = mapped_column(Text, primary_key=True)
    state: Mapped[str] = mapped_column(Text, primary_key=True)
    jobs: Mapped[int] = mapped_column(BigInteger)
    cost_usd: Mapped[Decimal] = mapped_column(Numeric(20, 8))


class Progress(Base):
    """Until when beat has copied prompts (by ``created_at``), counted endings (by ``finished_at``) and added up days."""

    __tablename__ = "progress"

    name: Mapped[str] = mapped_column(Text, primary_key=True)
    through: Mapped[Timestamp]
