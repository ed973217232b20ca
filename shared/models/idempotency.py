"""Answers that are kept for clients that send a request again."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, LargeBinary, SmallInteger, Text
from sqlalchemy.orm import Mapped, mapped_column

from shared.models.base import Base, CreatedAt, Json


class IdempotencyKey(Base):
    """One key of a project and the answer to its request; written with what the answer tells of, never changed."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (
        CheckConstraint("length(key) BETWEEN 1 AND 255", name="key_length"),
        CheckConstraint("octet_length(fingerprint) = 32", name="fingerprint_is_sha256"),
        Index("ix_idempotency_keys_created_at", "created_at"),
    )

    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    key: Mapped[str] = mapped_column(Text, primary_key=True)
    #: Of method, path and body: the same key with another one is refused.
    fingerprint: Mapped[bytes] = mapped_column(LargeBinary)
    status: Mapped[int] = mapped_column(SmallInteger)
    headers: Mapped[Json]
    body: Mapped[str] = mapped_column(Text)
    created_at: Mapped[CreatedAt]
