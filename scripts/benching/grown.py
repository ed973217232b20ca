"""A database that has seen a million jobs: copies of one that really ran, so that they are of the right shape."""

from __future__ import annotations

import time
from collections.abc import Sequence

import psycopg
from psycopg import sql

from scripts.benching.bench import BenchError
from scripts.benching.plantain import Plantain

#: Copies that are stored at once, are then changed as a job's passage changes them, and whose dead versions are cleared away.
_BATCH = 50_000
#: Beat counts what has ended every few seconds, 20,000 jobs at a time.
_COUNTED_SECONDS = 300.0
#: UUIDv7, a second apart and back from the first, told apart by the copy's number: the same in every table.
_ID = sql.SQL(
    "(lpad(to_hex({base}::bigint - n * 1000), 12, '0') || '7' || "
    "substr(md5(n::text), 1, 3) || '8' || substr(md5(n::text), 4, 15))::uuid"
)
_COLUMNS = """
    SELECT column_name, data_type FROM information_schema.columns
    WHERE table_schema = 'public' AND table_name = %s AND is_identity = 'NO' AND is_generated = 'NEVER'
    ORDER BY ordinal_position
"""
#: 1 once all that ended is counted, and all days that are over are added up.
_ADDED_UP = """
    SELECT (days.through = date_trunc('day', totals.through, 'UTC') AND totals.through > now() - interval '2 minutes')::int
    FROM progress AS totals, progress AS days WHERE totals.name = 'totals' AND days.name = 'days'
"""

Db = psycopg.Connection[tuple[object, ...]]
Columns = Sequence[tuple[str, str]]


class Grown(Plantain):
    """Plantain with this many finished jobs, their attempts and events in the tables."""

    finished_jobs = 1_000_000

    def start(self) -> None:
        """Raises: BenchError: the job that is copied did not succeed, or its copies were not counted."""
        super().start()
        self.bench.provider.reset(0.0)
        with psycopg.connect(self.database_url, autocommit=True) as db:
            self.fill(1)
            db.execute("CREATE TEMP TABLE queued AS SELECT * FROM jobs")
            with self.worker(1):
                self.finished(1, 60)
            self._copy(db)
            self._count(db)
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

    def _copy(self, db: Db) -> None:
        """Each copy is stored as it was queued and changed to what it became: gaps are left as jobs that ran leave them.

        Copies that are stored as they ended leave a gap of one queued job in each page instead, and all that count
        or list the queued jobs then read twelve times the pages of a table that so many jobs passed through.
        """
        for table in ("jobs", "attempts", "job_events"):
            db.execute(f"CREATE TEMP TABLE ended_{table} AS SELECT * FROM {table}".encode())
        base = sql.Literal(int(time.time() * 1000))
        jobs = _columns(db, "jobs")
        steps = (
            _insert("jobs", "queued", jobs, "id", base),
            _update_jobs([(name, kind) for name, kind in jobs if name != "id"], base),
            _insert("attempts", "ended_attempts", _columns(db, "attempts"), "job_id", base),
            _insert("job_events", "ended_job_events", _columns(db, "job_events"), "job_id", base),
        )
        for first in range(1, self.finished_jobs + 1, _BATCH):
            last = min(first + _BATCH - 1, self.finished_jobs)
            with db.transaction():
                # Every copy has its parent; to look each of them up would take minutes.
                db.execute("SET LOCAL session_replication_role = replica")
                for step in steps:
                    db.execute(step, [first, last])
            db.execute("VACUUM (ANALYZE) jobs")
            self.bench.terminal.say(f"  {last:,} of {self.finished_jobs:,} jobs are in the tables")

    def _count(self, db: Db) -> None:
        """Have beat count them: it takes them for counted, as they ended before it began. Then ask the API."""
        with db.transaction():
            db.execute("UPDATE progress SET through = '2000-01-01' WHERE name IN ('totals', 'days')")
            db.execute("DELETE FROM job_totals")
            db.execute("DELETE FROM job_daily_totals")
        deadline = time.monotonic() + _COUNTED_SECONDS
        while not self._value(_ADDED_UP):
            if time.monotonic() > deadline:
                raise BenchError(f"{self.name}: beat has not counted the jobs in {_COUNTED_SECONDS:.0f} s")
            time.sleep(1)
        # The copies, and the job that was copied.
        counted = f'"succeeded":{self.finished_jobs + 1}'
        asked = {"method": "GET", "paths": ["/api/v1/jobs/summary"], "body": "", "expect": 200}
        self.bench.load(self.spec(**asked, must_hold=counted, connections=1, count=1))


def _columns(db: Db, table: str) -> Columns:
    return [(str(name), str(kind)) for name, kind in db.execute(_COLUMNS, [table]).fetchall()]


def _insert(table: str, source: str, columns: Columns, id_column: str, base: sql.Composable) -> sql.Composed:
    """The statement that adds copies of the source's rows, from one number to another."""
    return sql.SQL(
        "INSERT INTO {table} ({columns}) SELECT {values} FROM generate_series(%s::int, %s::int) AS n, {source} AS t"
    ).format(
        table=sql.Identifier(table),
        source=sql.Identifier(source),
        columns=sql.SQL(", ").join(sql.Identifier(name) for name, _ in columns),
        values=sql.SQL(", ").join(
            _ID.format(base=base) if name == id_column else _value(name, kind) for name, kind in columns
        ),
    )


def _update_jobs(columns: Columns, base: sql.Composable) -> sql.Composed:
    """The statement that makes queued copies what the job was when it had ended."""
    return sql.SQL(
        "UPDATE jobs SET {values} FROM generate_series(%s::int, %s::int) AS n, ended_jobs AS t WHERE jobs.id = {id}"
    ).format(
        id=_ID.format(base=base),
        values=sql.SQL(", ").join(
            sql.SQL("{} = {}").format(sql.Identifier(name), _value(name, kind)) for name, kind in columns
        ),
    )


def _value(name: str, kind: str) -> sql.Composable:
    """Its times go back as the ids do."""
    column = sql.Identifier("t", name)
    if kind == "timestamp with time zone":
        return sql.SQL("{} - make_interval(secs => n)").format(column)
    return column
