"""Batches: many jobs of one request, and events that are a batch's.

Revision: 0010, after 0009
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "batches",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("total", sa.Integer(), nullable=False),
        sa.Column(
            "tags", postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'::text[]"), nullable=False
        ),
        sa.Column("metadata", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("cancel_requested_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("counts", postgresql.JSONB(), nullable=True),
        sa.Column("cost_usd", sa.Numeric(precision=20, scale=8), nullable=True),
        sa.CheckConstraint("total > 0", name=op.f("ck_batches_total_positive")),
        sa.CheckConstraint(
            "num_nonnulls(completed_at, counts, cost_usd) IN (0, 3)",
            name=op.f("ck_batches_counted_iff_completed"),
        ),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_batches_project_id_projects")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_batches")),
    )
    newest = ["project_id", sa.literal_column("created_at DESC"), sa.literal_column("id DESC")]
    op.create_index("ix_batches_newest", "batches", newest)
    op.create_index("ix_batches_open", "batches", ["id"], postgresql_where=sa.text("completed_at IS NULL"))
    op.add_column("jobs", sa.Column("batch_id", sa.Uuid(), nullable=True))
    op.add_column("jobs", sa.Column("batch_index", sa.Integer(), nullable=True))
    op.create_check_constraint(
        op.f("ck_jobs_index_iff_batch"), "jobs", "(batch_id IS NULL) = (batch_index IS NULL)"
    )
    in_batch = sa.text("batch_id IS NOT NULL")
    op.create_index("ix_jobs_batch", "jobs", ["batch_id", "id"], postgresql_where=in_batch)
    op.create_index("ix_jobs_batch_state", "jobs", ["batch_id", "state"], postgresql_where=in_batch)
    op.add_column("job_events", sa.Column("batch_id", sa.Uuid(), nullable=True))
    op.create_check_constraint(
        op.f("ck_job_events_version_iff_job"), "job_events", "(job_id IS NULL) = (version IS NULL)"
    )
    op.create_check_constraint(
        op.f("ck_job_events_of_one"), "job_events", "job_id IS NULL OR batch_id IS NULL"
    )
    op.create_index("ix_job_events_batch", "job_events", ["batch_id"], postgresql_where=in_batch)


def downgrade() -> None:
    op.execute("DELETE FROM job_events WHERE batch_id IS NOT NULL")
    op.drop_index("ix_job_events_batch", table_name="job_events")
    op.drop_constraint(op.f("ck_job_events_of_one"), "job_events")
    op.drop_constraint(op.f("ck_job_events_version_iff_job"), "job_events")
    op.drop_column("job_events", "batch_id")
    op.drop_index("ix_jobs_batch_state", table_name="jobs")
    op.drop_index("ix_jobs_batch", table_name="jobs")
    op.drop_constraint(op.f("ck_jobs_index_iff_batch"), "jobs")
    op.drop_column("jobs", "batch_index")
    op.drop_column("jobs", "batch_id")
    op.drop_table("batches")
