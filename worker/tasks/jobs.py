"""The one task: run a job's next attempt."""

from __future__ import annotations

from uuid import UUID

from shared.queue import RUN_JOB
from worker.app import app
from worker.runtime import Runtime


class JobFailed(Exception):
    """Shows a failed job as failed in Flower; the job itself says why."""


@app.task(name=RUN_JOB, throws=(JobFailed,))
def run_job(job_id: str) -> str:
    """Runs one attempt. Args: ``job_id``, a UUID. Answers the job's state afterwards."""
    state = Runtime.current().run_job(UUID(job_id))
    if state == "failed":
        raise JobFailed(job_id)
    return state
