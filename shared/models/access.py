"""Projects, and the API keys that speak for them."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import CheckConstraint, Index, LargeBinary, Text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from shared.models.base import Base, CreatedAt, ProjectId, Timestamp

#: What a key may do.
SCOPES = ("jobs:read", "jobs:write")


class Project(Base):
    """Whose jobs these are. Nothing crosses from one project to another."""

    __tablename__ = "projects"
    __table_args__ = (CheckConstraint("name ~ '^[a-z0-9][a-z0-9-]{0,62}$'", name="name_form"),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(Text, unique=True)
    created_at: Mapped[CreatedAt]


class ApiKey(Base):
    """A key, of which only its first characters and a hash are kept."""

    __tablename__ = "api_keys"
    __table_args__ = (
        CheckConstraint("octet_length(secret_hash) = 32", name="secret_hash_is_sha256"),
        CheckConstraint(
            f"scopes <@ ARRAY[{', '.join(repr(s) for s in SCOPES)}]::text[]", name="scopes_known"
        ),
        CheckConstraint("cardinality(scopes) > 0", name="scopes_not_empty"),
        Index("ix_api_keys_project_id", "project_id"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    project_id: Mapped[ProjectId]
    name: Mapped[str] = mapped_column(Text)
    #: The readable part of the key, by which it is looked up and listed.
    prefix: Mapped[str] = mapped_column(Text, unique=True)
    #: SHA-256 of the whole key. A key holds 256 random bits: no slow hash is needed.
    secret_hash: Mapped[bytes] = mapped_column(LargeBinary)
    scopes: Mapped[list[str]] = mapped_column(ARRAY(Text))
    created_at: Mapped[CreatedAt]
    expires_at: Mapped[Timestamp | None]
    revoked_at: Mapped[Timestamp | None]
