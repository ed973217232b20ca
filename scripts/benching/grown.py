"""A database that has seen a million jobs: copies of one that really ran, so that they are of the right shape."""

from __future__ import annotations

import psycopg
from psycopg import sql

from scripts.benching.plantain import Plantain

#: Tables and the column that holds the job's id, parents first.
_TABLES = (("jobs", "id"), ("attempts", "job_id"), ("job_events", "job_id"))
#: UUIDv7, a second apart and back from now, told apart by the copy's number: the same in every table.
_ID = sql.SQL(
    "(lpad(to_hex((extract(epoch FROM now()) * 1000)::bigint - n * 1000), 12, '0') || '7' || "
    "substr(md5(n::text), 1, 3) || '8' || substr(md5(n::text), 4, 15))::uuid"
)
_COLUMNS = """
    SELECT column_name, data_type FROM information_schema.columns
    WHERE table_schema = 'public' AND table_name = %s AND is_identity = 'NO' AND is_generated = 'NEVER'
    ORDER BY ordinal_position
"""


class Grown(Plantain):
    """Plantain with this many finished jobs, their attempts and events in the tables."""

    finished_jobs = 1_000_000

    def start(self) -> None:
        """Raises: BenchError: the job that is copied did not succeed."""
        super().start()
        self.bench.provider.reset(0.0)
        with self.worker(1):
            self.fill(1)
            self.finished(1, 60)
        self.bench.terminal.say(f"copying a job {self.finished_jobs:,} times")
        with psycopg.connect(self.database_url, autocommit=True) as db:
            with db.transaction():
                # Every copy has its parent; to look each of them up would take minutes.
                db.execute("SET LOCAL session_replication_role = replica")
                for table, id_column in _TABLES:
                    db.execute(_copies(db, table, id_column), [self.finished_jobs])
            db.execute("VACUUM (ANALYZE)")
            row = db.execute("SELECT clock_timestamp()").fetchone()
        self._grown_at = row[0] if row else None
        self.bench.settle()

    def clear(self) -> None:
        """Take away what came since; the million stays."""
        with psycopg.connect(self.database_url, autocommit=True) as db:
            db.execute("DELETE FROM jobs WHERE created_at >= %s", [self._grown_at])
            db.execute("VACUUM (ANALYZE)")
        self._unlink_messages()
        self.bench.settle()


def _copies(db: psycopg.Connection[tuple[object, ...]], table: str, id_column: str) -> sql.Composed:
    """The statement that copies the table's rows; its times go back as the ids do."""
    columns = [(str(name), str(kind)) for name, kind in db.execute(_COLUMNS, [table]).fetchall()]
    values = [_value(name, kind, id_column) for name, kind in columns]
    return sql.SQL(
        "INSERT INTO {table} ({columns}) SELECT {values} FROM generate_series(1, %s) AS n, {table} AS t"
    ).format(
        table=sql.Identifier(table),
        columns=sql.SQL(", ").join(sql.Identifier(name) for name, _ in columns),
        values=sql.SQL(", ").join(values),
    )


def _value(name: str, kind: str, id_column: str) -> sql.Composable:
    if name == id_column:
        return _ID
    column = sql.Identifier("t", name)
    if kind == "timestamp with time zone":
        return sql.SQL("{} - make_interval(secs => n)").format(column)
    return column
