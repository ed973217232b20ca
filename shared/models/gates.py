"""One row for each model that is limited, paused or recovering; a model without a row is wide open."""

from __future__ import annotations

from sqlalchemy import CheckConstraint, Text
from sqlalchemy.orm import Mapped, mapped_column

from shared.models.base import Base, CreatedAt, Timestamp, one_of


class ModelGate(Base):
    """Read and changed under its row lock, so a limit holds across all workers."""

    __tablename__ = "model_gates"
    __table_args__ = (
        CheckConstraint(one_of("reason", ("rate_limited", "provider_unavailable")), name="reason_known"),
        CheckConstraint("allowance IS NULL OR allowance > 0", name="allowance_positive"),
        CheckConstraint("rpm IS NULL OR rpm > 0", name="rpm_positive"),
        CheckConstraint("learned_rpm IS NULL OR learned_rpm > 0", name="learned_rpm_positive"),
        CheckConstraint("max_in_flight IS NULL OR max_in_flight > 0", name="max_in_flight_positive"),
    )

    model: Mapped[str] = mapped_column(Text, primary_key=True)
    #: Configured: calls begun in a minute at most, and calls under way at most.
    rpm: Mapped[int | None]
    max_in_flight: Mapped[int | None]
    #: What the provider said its limit is, when it refused a call.
    learned_rpm: Mapped[int | None]
    learned_at: Mapped[Timestamp | None]
    #: No call before this.
    paused_until: Mapped[Timestamp | None]
    #: Why it is paused or recovering.
    reason: Mapped[str] = mapped_column(Text, server_default="rate_limited")
    #: Pauses since it last was open: each one lasts longer where the provider names no time.
    pauses: Mapped[int] = mapped_column(server_default="0")
    #: While recovering: calls under way at most; doubles with each success. None means recovered.
    allowance: Mapped[int | None]
    #: When the next call may begin under the limit of calls in a minute.
    next_slot_at: Mapped[Timestamp | None]
    updated_at: Mapped[CreatedAt]
