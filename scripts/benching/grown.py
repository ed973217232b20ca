"""A database that a million jobs have passed through."""

from __future__ import annotations

import time

import psycopg

from scripts.benching.bench import BenchError
from scripts.benching.plantain import Plantain

#: Jobs that are submitted while those before them run.
_CHUNK = 20_000
_CHUNK_SECONDS = 120.0
#: Beat counts what has ended every few seconds.
_COUNTED_SECONDS = 300.0
#: Hours before the million, and jobs that ended in each and were deleted since: their counts stay.
_HISTORY_HOURS, _HISTORY_JOBS = 300, 1000
_HISTORY = """
    INSERT INTO job_totals (project_id, hour, kind, model, state, jobs, cost_usd)
    SELECT project_id, hour - n * interval '1 hour', kind, model, state, %s::int, 0.01
    FROM (SELECT * FROM job_totals ORDER BY hour LIMIT 1) AS first, generate_series(1, %s::int) AS n
"""
#: 1 once all that ended is counted, and all days that are over are added up.
_ADDED_UP = """
    SELECT (days.through = date_trunc('day', totals.through, 'UTC')
            AND NOT EXISTS (SELECT FROM jobs WHERE finished_at > totals.through))::int
    FROM progress AS totals, progress AS days WHERE totals.name = 'totals' AND days.name = 'days'
"""

Db = psycopg.Connection[tuple[object, ...]]


class Grown(Plantain):
    """Plantain with this many finished jobs, their attempts and events in the tables, all of which ran here.

    Copies would be faster and lie otherwise: a table is as full of gaps as what happened to it has left.
    """

    finished_jobs = 1_000_000

    def start(self) -> None:
        """Takes some ten minutes. Raises `BenchError`: a job did not succeed, or they were not counted."""
        super().start()
        self._run_all()
        with psycopg.connect(self.database_url, autocommit=True) as db:
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

    def _run_all(self) -> None:
        self.bench.provider.reset(0.0)
        with self.worker(100):
            for first in range(0, self.finished_jobs, _CHUNK):
                jobs = min(_CHUNK, self.finished_jobs - first)
                self.fill(jobs)
                self.bench.provider.wait(first + jobs, _CHUNK_SECONDS)
                self.bench.terminal.say(f"  {first + jobs:,} of {self.finished_jobs:,} jobs have run")
            self.finished(jobs, _CHUNK_SECONDS)

    def _count(self, db: Db) -> None:
        """Wait until beat has counted them, with a history of hours and days before; then ask the API."""
        self._wait_for_beat()
        db.execute(_HISTORY, [_HISTORY_JOBS, _HISTORY_HOURS])
        db.execute("UPDATE progress SET through = '2000-01-01' WHERE name = 'days'")
        self._wait_for_beat()
        counted = f'"succeeded":{self.finished_jobs + _HISTORY_JOBS * _HISTORY_HOURS}'
        asked = {"method": "GET", "paths": ["/api/v1/jobs/summary"], "body": "", "expect": 200}
        self.bench.load(self.spec(**asked, must_hold=counted, connections=1, count=1))

    def _wait_for_beat(self) -> None:
        deadline = time.monotonic() + _COUNTED_SECONDS
        while not self._value(_ADDED_UP):
            if time.monotonic() > deadline:
                raise BenchError(f"{self.name}: beat has not counted the jobs in {_COUNTED_SECONDS:.0f} s")
            time.sleep(1)
