"""Gates: what holds a model's jobs back for all workers at once.

Revision: 0002, after 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "model_gates",
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("rpm", sa.Integer(), nullable=True),
        sa.Column("max_in_flight", sa.Integer(), nullable=True),
        sa.Column("learned_rpm", sa.Integer(), nullable=True),
        sa.Column("learned_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("paused_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("reason", sa.Text(), server_default="rate_limited", nullable=False),
        sa.Column("pauses", sa.Integer(), server_default="0", nullable=False),
        sa.Column("allowance", sa.Integer(), nullable=True),
        sa.Column("next_slot_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("reason IN ('rate_limited', 'provider_unavailable')", name="reason_known"),
        sa.CheckConstraint("allowance IS NULL OR allowance > 0", name="allowance_positive"),
        sa.CheckConstraint("rpm IS NULL OR rpm > 0", name="rpm_positive"),
        sa.CheckConstraint("learned_rpm IS NULL OR learned_rpm > 0", name="learned_rpm_positive"),
        sa.CheckConstraint("max_in_flight IS NULL OR max_in_flight > 0", name="max_in_flight_positive"),
        sa.PrimaryKeyConstraint("model", name=op.f("pk_model_gates")),
    )


def downgrade() -> None:
    op.drop_table("model_gates")
