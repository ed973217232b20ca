"""Pictures: what they are, and apart from that their bytes."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Index,
    LargeBinary,
    SmallInteger,
    Text,
    UniqueConstraint,
)
from sqlalchemy.orm import Mapped, mapped_column

from shared.models.base import Base, CreatedAt, ProjectId, one_of


class Artifact(Base):
    """An input or output picture of a job."""

    __tablename__ = "artifacts"
    __table_args__ = (
        UniqueConstraint("job_id", "role", "position"),
        CheckConstraint(one_of("role", ("input", "output")), name="role_known"),
        CheckConstraint("byte_size > 0", name="not_empty"),
        CheckConstraint("octet_length(sha256) = 32", name="sha256_length"),
        Index("ix_artifacts_upload_id", "upload_id", postgresql_where="upload_id IS NOT NULL"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    project_id: Mapped[ProjectId]
    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    role: Mapped[str] = mapped_column(Text)
    position: Mapped[int] = mapped_column(SmallInteger)
    media_type: Mapped[str] = mapped_column(Text)
    byte_size: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[bytes] = mapped_column(LargeBinary)
    #: None where the format is one that we do not read (HEIC).
    width: Mapped[int | None]
    height: Mapped[int | None]
    created_at: Mapped[CreatedAt]
    #: Where the bytes are, unless they are the artifact's own. An upload that is referred to cannot go.
    upload_id: Mapped[UUID | None] = mapped_column(ForeignKey("uploads.id"))


class ArtifactBytes(Base):
    """The bytes, stored uncompressed (pictures already are), so that a range is read as a range."""

    __tablename__ = "artifact_bytes"

    artifact_id: Mapped[UUID] = mapped_column(
        ForeignKey("artifacts.id", ondelete="CASCADE"), primary_key=True
    )
    project_id: Mapped[ProjectId]
    data: Mapped[bytes] = mapped_column(LargeBinary)
