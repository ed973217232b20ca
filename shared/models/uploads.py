"""Files that clients gave, to be used by jobs."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, LargeBinary, Text
from sqlalchemy.orm import Mapped, mapped_column

from shared.models.base import Base, CreatedAt, ProjectId, Timestamp

_COMPLETE = "completed_at IS NOT NULL"


class Upload(Base):
    """One file of a project, by its contents; while it is being received, ``completed_at`` is null."""

    __tablename__ = "uploads"
    __table_args__ = (
        CheckConstraint(
            "completed_at IS NULL OR (byte_size > 0 AND sha256 IS NOT NULL AND media_type IS NOT NULL)",
            name="complete_is_known",
        ),
        CheckConstraint("octet_length(sha256) = 32", name="sha256_length"),
        Index(
            "uq_uploads_project_id_sha256", "project_id", "sha256", unique=True, postgresql_where=_COMPLETE
        ),
        Index("ix_uploads_expires_at", "expires_at"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    project_id: Mapped[ProjectId]
    filename: Mapped[str | None] = mapped_column(Text)
    media_type: Mapped[str | None] = mapped_column(Text)
    byte_size: Mapped[int | None] = mapped_column(BigInteger)
    sha256: Mapped[bytes | None] = mapped_column(LargeBinary)
    #: None where the file's beginning does not say.
    width: Mapped[int | None]
    height: Mapped[int | None]
    created_at: Mapped[CreatedAt]
    completed_at: Mapped[Timestamp | None]
    #: When it may go, unless a job refers to it.
    expires_at: Mapped[Timestamp]


class UploadChunk(Base):
    """A slice of an upload's bytes, all but the last of the same size, stored as they are."""

    __tablename__ = "upload_chunks"

    upload_id: Mapped[UUID] = mapped_column(ForeignKey("uploads.id", ondelete="CASCADE"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[ProjectId]
    data: Mapped[bytes] = mapped_column(LargeBinary)
