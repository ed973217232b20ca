"""Projects, keys, jobs with attempts and events, artifacts, workers.

Revision: 0001, the first.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

#: Room on each page for heap-only updates of what changes often, vacuum soon after many changes
#: (a share of a million-row table would be far too late), and pictures without a second compression.
STORAGE = (
    "ALTER TABLE jobs SET (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02)",
    "ALTER TABLE jobs SET (autovacuum_analyze_scale_factor = 0.02, autovacuum_vacuum_threshold = 500)",
    "ALTER TABLE attempts SET (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02)",
    "ALTER TABLE workers SET (fillfactor = 50)",
    "ALTER TABLE artifact_bytes ALTER COLUMN data SET STORAGE EXTERNAL",
)


def upgrade() -> None:
    op.execute("CREATE EXTENSION IF NOT EXISTS pg_trgm")
    op.create_table(
        "projects",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("name ~ '^[a-z0-9][a-z0-9-]{0,62}$'", name=op.f("ck_projects_name_form")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_projects")),
        sa.UniqueConstraint("name", name=op.f("uq_projects_name")),
    )
    op.create_table(
        "workers",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("queues", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("concurrency", sa.Integer(), nullable=False),
        sa.Column("in_flight", sa.Integer(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("heartbeat_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_workers")),
    )
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("prefix", sa.Text(), nullable=False),
        sa.Column("secret_hash", sa.LargeBinary(), nullable=False),
        sa.Column("scopes", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "scopes <@ ARRAY['jobs:read', 'jobs:write']::text[]", name=op.f("ck_api_keys_scopes_known")
        ),
        sa.CheckConstraint("cardinality(scopes) > 0", name=op.f("ck_api_keys_scopes_not_empty")),
        sa.CheckConstraint("octet_length(secret_hash) = 32", name=op.f("ck_api_keys_secret_hash_is_sha256")),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("fk_api_keys_project_id_projects")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
        sa.UniqueConstraint("prefix", name=op.f("uq_api_keys_prefix")),
    )
    op.create_index("ix_api_keys_project_id", "api_keys", ["project_id"], unique=False)
    op.create_table(
        "jobs",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("priority", sa.Text(), server_default="standard", nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("input", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column(
            "warnings",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'[]'::jsonb"),
            nullable=False,
        ),
        sa.Column("state", sa.Text(), server_default="queued", nullable=False),
        sa.Column("version", sa.Integer(), server_default="1", nullable=False),
        sa.Column("attempt", sa.Integer(), server_default="0", nullable=False),
        sa.Column("snoozes", sa.Integer(), server_default="0", nullable=False),
        sa.Column("max_attempts", sa.SmallInteger(), nullable=False),
        sa.Column("timeout_seconds", sa.Double(), nullable=False),
        sa.Column("on_unknown", sa.Text(), server_default="retry", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column(
            "scheduled_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.Column("published_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cancel_requested_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("waiting_reason", sa.Text(), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("lease_owner", sa.Text(), nullable=True),
        sa.Column("deadline_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("result", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("error", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("provider", sa.Text(), nullable=True),
        sa.Column("upstream_model", sa.Text(), nullable=True),
        sa.Column("model_version", sa.Text(), nullable=True),
        sa.Column("usage", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("cost_usd", sa.Numeric(precision=14, scale=8), server_default="0", nullable=False),
        sa.CheckConstraint(
            "num_nonnulls(lease_until, lease_owner, deadline_at) = CASE WHEN state = 'running' THEN 3 ELSE 0 END",
            name=op.f("ck_jobs_lease_iff_running"),
        ),
        sa.CheckConstraint("lease_until <= deadline_at", name=op.f("ck_jobs_lease_within_deadline")),
        sa.CheckConstraint(
            "(state = 'succeeded') = (result IS NOT NULL)", name=op.f("ck_jobs_result_iff_succeeded")
        ),
        sa.CheckConstraint(
            "(state IN ('succeeded', 'failed', 'cancelled', 'expired')) = (finished_at IS NOT NULL)",
            name=op.f("ck_jobs_finished_at_iff_final"),
        ),
        sa.CheckConstraint("on_unknown IN ('retry', 'fail')", name=op.f("ck_jobs_on_unknown_known")),
        sa.CheckConstraint(
            "priority IN ('interactive', 'standard', 'batch')", name=op.f("ck_jobs_priority_known")
        ),
        sa.CheckConstraint("state <> 'failed' OR error IS NOT NULL", name=op.f("ck_jobs_failed_has_error")),
        sa.CheckConstraint(
            "state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled', 'expired')",
            name=op.f("ck_jobs_state_known"),
        ),
        sa.CheckConstraint(
            "waiting_reason IN ('scheduled', 'retry_backoff', 'rate_limited', 'provider_unavailable', 'project_limit')",
            name=op.f("ck_jobs_waiting_reason_known"),
        ),
        sa.CheckConstraint(
            "waiting_reason IS NULL OR state = 'queued'", name=op.f("ck_jobs_waiting_only_queued")
        ),
        sa.CheckConstraint("attempt - snoozes <= max_attempts", name=op.f("ck_jobs_attempts_within_max")),
        sa.CheckConstraint(
            "attempt >= 0 AND snoozes >= 0 AND snoozes <= attempt", name=op.f("ck_jobs_attempts_counted")
        ),
        sa.CheckConstraint("cost_usd >= 0", name=op.f("ck_jobs_cost_not_negative")),
        sa.CheckConstraint("max_attempts BETWEEN 1 AND 20", name=op.f("ck_jobs_max_attempts_range")),
        sa.CheckConstraint("timeout_seconds > 0", name=op.f("ck_jobs_timeout_positive")),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_jobs_project_id_projects")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
    )
    op.create_index(
        "ix_jobs_due",
        "jobs",
        ["scheduled_at"],
        unique=False,
        postgresql_where=sa.text("state = 'queued' AND published_at IS NULL"),
    )
    op.create_index(
        "ix_jobs_expiring",
        "jobs",
        ["expires_at"],
        unique=False,
        postgresql_where=sa.text("state = 'queued' AND expires_at IS NOT NULL"),
    )
    op.create_index(
        "ix_jobs_project_newest",
        "jobs",
        ["project_id", sa.literal_column("created_at DESC"), sa.literal_column("id DESC")],
        unique=False,
    )
    op.create_index(
        "ix_jobs_published",
        "jobs",
        ["queue", "published_at"],
        unique=False,
        postgresql_where=sa.text("state = 'queued' AND published_at IS NOT NULL"),
    )
    op.create_index(
        "ix_jobs_running", "jobs", ["id"], unique=False, postgresql_where=sa.text("state = 'running'")
    )
    op.create_table(
        "artifacts",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("position", sa.SmallInteger(), nullable=False),
        sa.Column("media_type", sa.Text(), nullable=False),
        sa.Column("byte_size", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("width", sa.Integer(), nullable=True),
        sa.Column("height", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("role IN ('input', 'output')", name=op.f("ck_artifacts_role_known")),
        sa.CheckConstraint("byte_size > 0", name=op.f("ck_artifacts_not_empty")),
        sa.CheckConstraint("octet_length(sha256) = 32", name=op.f("ck_artifacts_sha256_length")),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name=op.f("fk_artifacts_job_id_jobs"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("fk_artifacts_project_id_projects")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_artifacts")),
        sa.UniqueConstraint("job_id", "role", "position", name=op.f("uq_artifacts_job_id_role_position")),
    )
    op.create_table(
        "attempts",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("worker", sa.Text(), nullable=False),
        sa.Column("claimed_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("answered_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("counted", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("error", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("provider", sa.Text(), nullable=True),
        sa.Column("model_version", sa.Text(), nullable=True),
        sa.Column("upstream_request_id", sa.Text(), nullable=True),
        sa.Column("usage", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("estimated_cost_usd", sa.Numeric(precision=14, scale=8), nullable=True),
        sa.Column("cost_usd", sa.Numeric(precision=14, scale=8), server_default="0", nullable=False),
        sa.CheckConstraint(
            "outcome <> 'lost' OR sent_at IS NULL", name=op.f("ck_attempts_lost_was_not_sent")
        ),
        sa.CheckConstraint(
            "outcome <> 'unknown' OR sent_at IS NOT NULL", name=op.f("ck_attempts_unknown_was_sent")
        ),
        sa.CheckConstraint(
            "outcome IN ('succeeded', 'failed', 'cancelled', 'lost', 'unknown')",
            name=op.f("ck_attempts_outcome_known"),
        ),
        sa.CheckConstraint(
            "(outcome IS NULL) = (finished_at IS NULL)", name=op.f("ck_attempts_outcome_iff_finished")
        ),
        sa.CheckConstraint(
            "answered_at IS NULL OR sent_at IS NOT NULL", name=op.f("ck_attempts_answered_after_sent")
        ),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name=op.f("fk_attempts_job_id_jobs"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("fk_attempts_project_id_projects")
        ),
        sa.PrimaryKeyConstraint("job_id", "number", name=op.f("pk_attempts")),
    )
    op.create_index(
        "uq_attempts_one_open",
        "attempts",
        ["job_id"],
        unique=True,
        postgresql_where=sa.text("outcome IS NULL"),
    )
    op.create_index(
        "uq_attempts_one_success",
        "attempts",
        ["job_id"],
        unique=True,
        postgresql_where=sa.text("outcome = 'succeeded'"),
    )
    op.create_table(
        "job_events",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("data", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name=op.f("fk_job_events_job_id_jobs"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("fk_job_events_project_id_projects")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job_events")),
        sa.UniqueConstraint("job_id", "version", name=op.f("uq_job_events_job_id_version")),
    )
    op.create_index("ix_job_events_project_id_id", "job_events", ["project_id", "id"], unique=False)
    op.create_table(
        "artifact_bytes",
        sa.Column("artifact_id", sa.Uuid(), nullable=False),
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["artifact_id"],
            ["artifacts.id"],
            name=op.f("fk_artifact_bytes_artifact_id_artifacts"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("fk_artifact_bytes_project_id_projects")
        ),
        sa.PrimaryKeyConstraint("artifact_id", name=op.f("pk_artifact_bytes")),
    )
    for statement in STORAGE:
        op.execute(statement)


def downgrade() -> None:
    op.drop_table("artifact_bytes")
    op.drop_index("ix_job_events_project_id_id", table_name="job_events")
    op.drop_table("job_events")
    op.drop_index(
        "uq_attempts_one_success", table_name="attempts", postgresql_where=sa.text("outcome = 'succeeded'")
    )
    op.drop_index("uq_attempts_one_open", table_name="attempts", postgresql_where=sa.text("outcome IS NULL"))
    op.drop_table("attempts")
    op.drop_table("artifacts")
    op.drop_index("ix_jobs_running", table_name="jobs", postgresql_where=sa.text("state = 'running'"))
    op.drop_index(
        "ix_jobs_published",
        table_name="jobs",
        postgresql_where=sa.text("state = 'queued' AND published_at IS NOT NULL"),
    )
    op.drop_index("ix_jobs_project_newest", table_name="jobs")
    op.drop_index(
        "ix_jobs_expiring",
        table_name="jobs",
        postgresql_where=sa.text("state = 'queued' AND expires_at IS NOT NULL"),
    )
    op.drop_index(
        "ix_jobs_due",
        table_name="jobs",
        postgresql_where=sa.text("state = 'queued' AND published_at IS NULL"),
    )
    op.drop_table("jobs")
    op.drop_index("ix_api_keys_project_id", table_name="api_keys")
    op.drop_table("api_keys")
    op.drop_table("workers")
    op.drop_table("projects")
    op.execute("DROP EXTENSION IF EXISTS pg_trgm")
