"""Events and attempts no longer refer to their project: their job does, and each reference is looked up for each row.

Revision: 0013, after 0012
"""

from __future__ import annotations

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_TABLES = ("job_events", "attempts")


def upgrade() -> None:
    # A transaction each: who held projects and asked for the other table would deadlock with a submit, which has that and
    # asks for projects.
    for table in _TABLES:
        with op.get_context().autocommit_block():
            op.execute(f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS fk_{table}_project_id_projects")


def downgrade() -> None:
    # Notices whose project was deleted meanwhile: nobody can ask for them.
    op.execute("DELETE FROM job_events e WHERE NOT EXISTS (SELECT FROM projects WHERE id = e.project_id)")
    for table in reversed(_TABLES):
        with op.get_context().autocommit_block():
            op.execute(f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS fk_{table}_project_id_projects")
            op.create_foreign_key(
                f"fk_{table}_project_id_projects",
                table,
                "projects",
                ["project_id"],
                ["id"],
                postgresql_not_valid=True,
            )
        op.execute(f"ALTER TABLE {table} VALIDATE CONSTRAINT fk_{table}_project_id_projects")
