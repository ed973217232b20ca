"""What must never be is refused by the database itself, whoever asks."""

from __future__ import annotations

import pytest
from sqlalchemy.exc import IntegrityError

from shared.jobs.status import State
from tests import factories
from tests.integration.shared.jobs.conftest import Jobs

RUNNING, QUEUED, SUCCEEDED, FAILED = State.RUNNING, State.QUEUED, State.SUCCEEDED, State.FAILED

JOBS = [
    ("state_known", QUEUED, "state = 'paused'"),
    ("priority_known", QUEUED, "priority = 'urgent'"),
    ("on_unknown_known", QUEUED, "on_unknown = 'ask'"),
    ("waiting_reason_known", QUEUED, "waiting_reason = 'in_queue'"),
    ("finished_at_iff_final", QUEUED, "finished_at = now()"),
    ("finished_at_iff_final", SUCCEEDED, "finished_at = NULL"),
    ("lease_iff_running", RUNNING, "lease_owner = NULL"),
    ("lease_iff_running", RUNNING, "state = 'queued'"),
    ("lease_iff_running", QUEUED, "state = 'running'"),
    ("lease_iff_running", QUEUED, "lease_owner = 'left behind'"),
    ("lease_iff_running", QUEUED, "deadline_at = now()"),
    ("lease_within_deadline", RUNNING, "lease_until = deadline_at + interval '1 microsecond'"),
    ("result_iff_succeeded", SUCCEEDED, "result = NULL"),
    ("result_iff_succeeded", FAILED, "result = '{}'"),
    ("failed_has_error", FAILED, "error = NULL"),
    ("waiting_only_queued", RUNNING, "waiting_reason = 'scheduled'"),
    ("attempts_counted", RUNNING, "snoozes = 2"),
    ("attempts_counted", QUEUED, "snoozes = -1"),
    ("max_attempts_range", QUEUED, "max_attempts = 0"),
    ("max_attempts_range", QUEUED, "max_attempts = 21"),
    ("attempts_within_max", QUEUED, "attempt = 6"),
    ("timeout_positive", QUEUED, "timeout_seconds = 0"),
    ("cost_not_negative", QUEUED, "cost_usd = -0.00000001"),
    ("keep_positive", QUEUED, "keep_seconds = 0"),
    ("webhook_whole", QUEUED, "webhook_url = 'https://example.com'"),
    ("index_iff_batch", QUEUED, "batch_id = id"),
]

ATTEMPTS = [
    ("outcome_known", "outcome = 'lucky', finished_at = now()"),
    ("outcome_iff_finished", "outcome = 'failed'"),
    ("outcome_iff_finished", "finished_at = now()"),
    ("answered_after_sent", "answered_at = now()"),
    ("lost_was_not_sent", "outcome = 'lost', finished_at = now(), sent_at = now()"),
    ("unknown_was_sent", "outcome = 'unknown', finished_at = now()"),
]


@pytest.mark.parametrize(("name", "state", "change"), JOBS)
async def test_jobs(jobs: Jobs, name: str, state: State, change: str) -> None:
    job_id = await jobs.add(state=state)
    with pytest.raises(IntegrityError, match=f"ck_jobs_{name}"):
        await jobs.run(f"UPDATE jobs SET {change} WHERE id = :id", id=job_id)


@pytest.mark.parametrize(("name", "change"), ATTEMPTS)
async def test_attempts(jobs: Jobs, name: str, change: str) -> None:
    job_id = await jobs.add(state=RUNNING)
    with pytest.raises(IntegrityError, match=f"ck_attempts_{name}"):
        await jobs.run(f"UPDATE attempts SET {change} WHERE job_id = :id", id=job_id)


async def test_all_checks_of_jobs_and_attempts_are_tried_here(jobs: Jobs) -> None:
    rows = await jobs.ask(
        "SELECT conname FROM pg_constraint WHERE contype = 'c' AND conrelid IN ('jobs'::regclass, 'attempts'::regclass)"
    )
    tried = {f"ck_jobs_{name}" for name, _, _ in JOBS} | {f"ck_attempts_{name}" for name, _ in ATTEMPTS}
    assert {row.conname for row in rows} == tried


async def test_never_two_succeeded_attempts(jobs: Jobs) -> None:
    job_id = await jobs.add(state=SUCCEEDED)
    with pytest.raises(IntegrityError, match="uq_attempts_one_success"):
        await jobs.run(
            "INSERT INTO attempts (job_id, number, project_id, worker, outcome, finished_at) "
            "VALUES (:id, 2, :project, 'w', 'succeeded', now())",
            id=job_id,
            project=jobs.project_id,
        )


async def test_never_two_open_attempts(jobs: Jobs) -> None:
    job_id = await jobs.add(state=RUNNING)
    with pytest.raises(IntegrityError, match="uq_attempts_one_open"):
        await jobs.run(
            "INSERT INTO attempts (job_id, number, project_id, worker) VALUES (:id, 2, :project, 'w')",
            id=job_id,
            project=jobs.project_id,
        )


async def test_an_event_has_its_version_alone(jobs: Jobs) -> None:
    job_id = await jobs.add()
    with pytest.raises(IntegrityError, match="uq_job_events_job_id_version"):
        await jobs.run(
            "INSERT INTO job_events (project_id, job_id, version, type, data) VALUES (:project, :id, 1, 'job.queued', '{}')",
            id=job_id,
            project=jobs.project_id,
        )


async def test_a_job_has_one_set_of_pictures(jobs: Jobs) -> None:
    job = await factories.job(jobs.database, jobs.project_id)
    await factories.artifact(jobs.database, job, b"picture")
    with pytest.raises(IntegrityError, match="uq_artifacts_job_id_role_position"):
        await factories.artifact(jobs.database, job, b"another")


async def test_what_belongs_to_a_job_goes_with_it(jobs: Jobs) -> None:
    job = await factories.job(jobs.database, jobs.project_id, state=SUCCEEDED)
    await factories.artifact(jobs.database, job, b"picture")
    await jobs.run("DELETE FROM jobs")
    for table in ("attempts", "job_events", "artifacts", "artifact_bytes"):
        assert await jobs.ask(f"SELECT 1 FROM {table}") == []
