"""The one task: run a job's next attempt."""

from __future__ import annotations

from shared.envelope import RUN_JOB
from worker.app import app


@app.task(name=RUN_JOB)
def run_job(job_id: str) -> str:
    """What ``worker.pool`` runs for its id, a job's. Called directly, in no pool of ours, it can do nothing."""
    raise RuntimeError(f"job {job_id}: {RUN_JOB} runs on worker.pool only")
