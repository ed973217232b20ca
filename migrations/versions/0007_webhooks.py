"""Webhooks: endpoints, secrets, deliveries and their attempts; events that are about no job.

Revision: 0007, after 0006
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_TABLES = (
    "webhook_progress",
    "webhook_attempts",
    "webhook_deliveries",
    "webhook_secrets",
    "webhook_endpoints",
)


def _when(name: str, *, now: bool = False) -> sa.Column:
    default = sa.text("now()") if now else None
    return sa.Column(name, sa.DateTime(timezone=True), server_default=default, nullable=not now)


def _project(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["project_id"], ["projects.id"], name=op.f(f"fk_{table}_project_id_projects")
    )


def _endpoint(table: str) -> sa.ForeignKeyConstraint:
    name = op.f(f"fk_{table}_endpoint_id_webhook_endpoints")
    return sa.ForeignKeyConstraint(["endpoint_id"], ["webhook_endpoints.id"], name=name, ondelete="CASCADE")


def upgrade() -> None:
    op.add_column("jobs", sa.Column("webhook_url", sa.Text(), nullable=True))
    op.add_column("jobs", sa.Column("webhook_events", postgresql.ARRAY(sa.Text()), nullable=True))
    op.create_check_constraint(
        op.f("ck_jobs_webhook_whole"), "jobs", "(webhook_url IS NULL) = (webhook_events IS NULL)"
    )
    op.alter_column("job_events", "job_id", nullable=True)
    op.alter_column("job_events", "version", nullable=True)
    _endpoints()
    _secrets()
    _deliveries()
    _attempts()
    progress = op.create_table(
        "webhook_progress",
        sa.Column("one", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("through_event", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("one", name=op.f("ck_webhook_progress_only_one")),
        sa.PrimaryKeyConstraint("one", name=op.f("pk_webhook_progress")),
    )
    op.execute(sa.insert(progress).values(through_event=0))


def _endpoints() -> None:
    op.create_table(
        "webhook_endpoints",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("url", sa.Text(), nullable=True),
        sa.Column("events", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("description", sa.Text(), server_default="", nullable=False),
        sa.Column("since_event", sa.BigInteger(), nullable=False),
        _when("created_at", now=True),
        _when("updated_at", now=True),
        _when("paused_at"),
        _when("disabled_at"),
        sa.Column("disabled_reason", sa.Text(), nullable=True),
        _when("failing_since"),
        sa.CheckConstraint("cardinality(events) > 0", name=op.f("ck_webhook_endpoints_events_not_empty")),
        sa.CheckConstraint(
            "(disabled_at IS NULL) = (disabled_reason IS NULL)",
            name=op.f("ck_webhook_endpoints_disabled_for_a_reason"),
        ),
        sa.CheckConstraint(
            "url IS NOT NULL OR num_nonnulls(paused_at, disabled_at, failing_since) = 0",
            name=op.f("ck_webhook_endpoints_jobs_always_on"),
        ),
        _project("webhook_endpoints"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_endpoints")),
    )
    op.create_index("ix_webhook_endpoints_project_id", "webhook_endpoints", ["project_id"])
    op.create_index(
        "uq_webhook_endpoints_of_jobs",
        "webhook_endpoints",
        ["project_id"],
        unique=True,
        postgresql_where=sa.text("url IS NULL"),
    )


def _secrets() -> None:
    op.create_table(
        "webhook_secrets",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("endpoint_id", sa.Uuid(), nullable=False),
        sa.Column("secret", sa.LargeBinary(), nullable=False),
        _when("created_at", now=True),
        _when("expires_at"),
        sa.CheckConstraint(
            "octet_length(secret) BETWEEN 24 AND 64", name=op.f("ck_webhook_secrets_secret_length")
        ),
        _project("webhook_secrets"),
        _endpoint("webhook_secrets"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_secrets")),
    )
    op.create_index("ix_webhook_secrets_endpoint_id", "webhook_secrets", ["endpoint_id"])


def _deliveries() -> None:
    op.create_table(
        "webhook_deliveries",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("endpoint_id", sa.Uuid(), nullable=False),
        sa.Column("event_id", sa.BigInteger(), nullable=True),
        sa.Column("job_id", sa.Uuid(), nullable=True),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=True),
        sa.Column("lane", sa.Text(), server_default="", nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), server_default="pending", nullable=False),
        sa.Column("attempt", sa.Integer(), server_default="0", nullable=False),
        sa.Column("failures", sa.Integer(), server_default="0", nullable=False),
        _when("due_at", now=True),
        _when("created_at", now=True),
        _when("finished_at"),
        sa.Column("last_status", sa.SmallInteger(), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "state IN ('pending', 'delivered', 'failed')", name=op.f("ck_webhook_deliveries_state_known")
        ),
        sa.CheckConstraint(
            "(state = 'pending') = (finished_at IS NULL)",
            name=op.f("ck_webhook_deliveries_finished_iff_not_pending"),
        ),
        sa.CheckConstraint(
            "failures >= 0 AND attempt >= 0", name=op.f("ck_webhook_deliveries_attempts_counted")
        ),
        _project("webhook_deliveries"),
        _endpoint("webhook_deliveries"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_deliveries")),
        sa.UniqueConstraint(
            "endpoint_id", "event_id", name=op.f("uq_webhook_deliveries_endpoint_id_event_id")
        ),
    )
    table = "webhook_deliveries"
    pending = sa.text("state = 'pending'")
    op.create_index(
        "ix_webhook_deliveries_due", table, ["endpoint_id", "lane", "due_at"], postgresql_where=pending
    )
    op.create_index("ix_webhook_deliveries_project_id_id", table, ["project_id", "id"])
    op.create_index("ix_webhook_deliveries_endpoint_id_id", table, ["endpoint_id", "id"])
    op.create_index(
        "ix_webhook_deliveries_job_id", table, ["job_id"], postgresql_where=sa.text("job_id IS NOT NULL")
    )
    op.create_index("ix_webhook_deliveries_created_at", table, ["created_at"])
    # Each is written anew two times at least, and the index of what is due is read again and again.
    op.execute(f"ALTER TABLE {table} SET (autovacuum_vacuum_scale_factor = 0.02)")


def _attempts() -> None:
    op.create_table(
        "webhook_attempts",
        sa.Column("delivery_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("project_id", sa.Uuid(), nullable=False),
        _when("started_at", now=True),
        sa.Column("duration_ms", sa.Double(), nullable=True),
        sa.Column("status", sa.SmallInteger(), nullable=True),
        sa.Column("answer", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["delivery_id"],
            ["webhook_deliveries.id"],
            name=op.f("fk_webhook_attempts_delivery_id_webhook_deliveries"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("delivery_id", "number", name=op.f("pk_webhook_attempts")),
    )


def downgrade() -> None:
    for table in _TABLES:
        op.drop_table(table)
    op.execute("DELETE FROM job_events WHERE job_id IS NULL")
    op.alter_column("job_events", "version", nullable=False)
    op.alter_column("job_events", "job_id", nullable=False)
    op.drop_constraint(op.f("ck_jobs_webhook_whole"), "jobs")
    op.drop_column("jobs", "webhook_events")
    op.drop_column("jobs", "webhook_url")
