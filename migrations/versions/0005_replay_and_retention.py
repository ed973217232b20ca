"""Replays name their source; jobs are kept for as long as was asked for.

Revision: 0005, after 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

#: Pruning leaves as many dead rows as there were: they are vacuumed soon, and not at a fifth of a large table.
VACUUMED_SOON = ("job_events", "artifacts", "artifact_bytes")


def upgrade() -> None:
    op.add_column("jobs", sa.Column("replay_of", sa.Uuid(), nullable=True))
    op.add_column("jobs", sa.Column("keep_seconds", sa.Double(), nullable=True))
    op.create_check_constraint(op.f("ck_jobs_keep_positive"), "jobs", "keep_seconds > 0")
    # The sum is worked out here, so that no transition needs to know of it. Its columns change only when a job
    # ends, which is no heap-only update anyway.
    op.create_index(
        "ix_jobs_kept_until",
        "jobs",
        [sa.literal_column("((finished_at AT TIME ZONE 'UTC'::text) + make_interval(secs => keep_seconds))")],
        unique=False,
        postgresql_where=sa.text("finished_at IS NOT NULL AND keep_seconds IS NOT NULL"),
    )
    for table in VACUUMED_SOON:
        op.execute(f"ALTER TABLE {table} SET (autovacuum_vacuum_scale_factor = 0.02)")
    op.execute("ALTER TABLE artifact_bytes SET (toast.autovacuum_vacuum_scale_factor = 0.02)")


def downgrade() -> None:
    op.execute("ALTER TABLE artifact_bytes RESET (toast.autovacuum_vacuum_scale_factor)")
    for table in VACUUMED_SOON:
        op.execute(f"ALTER TABLE {table} RESET (autovacuum_vacuum_scale_factor)")
    op.drop_index("ix_jobs_kept_until", table_name="jobs")
    op.drop_column("jobs", "keep_seconds")
    op.drop_column("jobs", "replay_of")
