"""Tags, metadata, and what lists, search and the summary read.

Revision: 0004, after 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_FINAL = "state IN ('succeeded', 'failed', 'cancelled', 'expired')"


def upgrade() -> None:
    tags, metadata = sa.text("'{}'::text[]"), sa.text("'{}'::jsonb")
    op.add_column("jobs", sa.Column("tags", postgresql.ARRAY(sa.Text()), server_default=tags, nullable=False))
    op.add_column("jobs", sa.Column("metadata", postgresql.JSONB(), server_default=metadata, nullable=False))
    op.create_index(
        "ix_jobs_final",
        "jobs",
        [
            "project_id",
            "state",
            "kind",
            "model",
            "priority",
            sa.literal_column("created_at DESC"),
            sa.literal_column("id DESC"),
        ],
        postgresql_where=sa.text(_FINAL),
    )
    op.create_index(
        "ix_jobs_finished", "jobs", ["finished_at"], postgresql_where=sa.text("finished_at IS NOT NULL")
    )
    op.create_table(
        "job_labels",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name=op.f("fk_job_labels_job_id_jobs"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job_id", "label", name=op.f("pk_job_labels")),
    )
    op.create_index(
        "ix_job_labels_newest",
        "job_labels",
        [
            "project_id",
            "label",
            sa.literal_column("created_at DESC"),
            sa.literal_column("job_id DESC"),
        ],
    )
    op.create_table(
        "job_prompts",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name=op.f("fk_job_prompts_job_id_jobs"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_job_prompts")),
    )
    op.create_index(
        "ix_job_prompts_trigrams",
        "job_prompts",
        ["prompt"],
        postgresql_using="gin",
        postgresql_ops={"prompt": "gin_trgm_ops"},
    )
    op.create_table(
        "job_totals",
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("hour", sa.DateTime(timezone=True), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("jobs", sa.BigInteger(), nullable=False),
        sa.Column("cost_usd", sa.Numeric(precision=20, scale=8), nullable=False),
        sa.CheckConstraint(_FINAL, name="state_final"),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("fk_job_totals_project_id_projects")
        ),
        sa.PrimaryKeyConstraint("project_id", "hour", "kind", "model", "state", name=op.f("pk_job_totals")),
    )
    progress = op.create_table(
        "progress",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("through", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_progress")),
    )
    long_ago = sa.text("'2000-01-01T00:00:00Z'")
    for name in ("prompts", "totals"):
        op.execute(sa.insert(progress).values(name=name, through=long_ago))


def downgrade() -> None:
    for table in ("progress", "job_totals", "job_prompts", "job_labels"):
        op.drop_table(table)
    op.drop_index("ix_jobs_finished", table_name="jobs")
    op.drop_index("ix_jobs_final", table_name="jobs")
    op.drop_column("jobs", "metadata")
    op.drop_column("jobs", "tags")
