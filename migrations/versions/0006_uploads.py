"""Uploads: files that clients gave, in slices, and artifacts whose bytes are an upload's.

Revision: 0006, after 0005
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_COMPLETE = sa.text("completed_at IS NOT NULL")


def upgrade() -> None:
    op.create_table(
        "uploads",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("filename", sa.Text(), nullable=True),
        sa.Column("media_type", sa.Text(), nullable=True),
        sa.Column("byte_size", sa.BigInteger(), nullable=True),
        sa.Column("sha256", sa.LargeBinary(), nullable=True),
        sa.Column("width", sa.Integer(), nullable=True),
        sa.Column("height", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "completed_at IS NULL OR (byte_size > 0 AND sha256 IS NOT NULL AND media_type IS NOT NULL)",
            name=op.f("ck_uploads_complete_is_known"),
        ),
        sa.CheckConstraint("octet_length(sha256) = 32", name=op.f("ck_uploads_sha256_length")),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_uploads_project_id_projects")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_uploads")),
    )
    op.create_index(
        "uq_uploads_project_id_sha256",
        "uploads",
        ["project_id", "sha256"],
        unique=True,
        postgresql_where=_COMPLETE,
    )
    op.create_index("ix_uploads_expires_at", "uploads", ["expires_at"])
    op.create_table(
        "upload_chunks",
        sa.Column("upload_id", sa.Uuid(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["upload_id"],
            ["uploads.id"],
            name=op.f("fk_upload_chunks_upload_id_uploads"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("fk_upload_chunks_project_id_projects")
        ),
        sa.PrimaryKeyConstraint("upload_id", "position", name=op.f("pk_upload_chunks")),
    )
    # Pictures are compressed already; and what is pruned leaves as many dead rows as there were (see 0005).
    op.execute("ALTER TABLE upload_chunks ALTER COLUMN data SET STORAGE EXTERNAL")
    op.execute("ALTER TABLE upload_chunks SET (autovacuum_vacuum_scale_factor = 0.02)")
    op.execute("ALTER TABLE upload_chunks SET (toast.autovacuum_vacuum_scale_factor = 0.02)")
    op.add_column("artifacts", sa.Column("upload_id", sa.Uuid(), nullable=True))
    op.create_foreign_key(
        op.f("fk_artifacts_upload_id_uploads"), "artifacts", "uploads", ["upload_id"], ["id"]
    )
    op.create_index(
        "ix_artifacts_upload_id",
        "artifacts",
        ["upload_id"],
        postgresql_where=sa.text("upload_id IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index("ix_artifacts_upload_id", table_name="artifacts")
    op.drop_constraint(op.f("fk_artifacts_upload_id_uploads"), "artifacts", type_="foreignkey")
    # Their bytes go with the uploads.
    op.execute("DELETE FROM artifacts WHERE upload_id IS NOT NULL")
    op.drop_column("artifacts", "upload_id")
    op.drop_table("upload_chunks")
    op.drop_table("uploads")
