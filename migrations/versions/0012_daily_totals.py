"""Totals by day, so that the summary of years stays a few thousand rows; beat fills them from the hours.

Revision: 0012, after 0011
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_FINAL = "state IN ('succeeded', 'failed', 'cancelled', 'expired')"


def upgrade() -> None:
    op.create_table(
        "job_daily_totals",
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("day", sa.DateTime(timezone=True), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("jobs", sa.BigInteger(), nullable=False),
        sa.Column("cost_usd", sa.Numeric(precision=20, scale=8), nullable=False),
        sa.CheckConstraint(_FINAL, name="state_final"),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("fk_job_daily_totals_project_id_projects")
        ),
        sa.PrimaryKeyConstraint(
            "project_id", "day", "kind", "model", "state", name=op.f("pk_job_daily_totals")
        ),
    )
    op.execute("INSERT INTO progress (name, through) VALUES ('days', '2000-01-01T00:00:00Z')")


def downgrade() -> None:
    op.execute("DELETE FROM progress WHERE name = 'days'")
    op.drop_table("job_daily_totals")
