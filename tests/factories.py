"""Rows for tests, made with the functions that the program itself uses, so that they are rows that can exist."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from uuid_utils.compat import uuid7

from shared.access import queries as access
from shared.access import service
from shared.artifacts import queries as artifacts
from shared.db import Database
from shared.jobs import queries as jobs
from shared.jobs.status import FINAL, State
from shared.models.access import SCOPES
from shared.queue import ALL_QUEUES

TEXT_JOB: dict[str, Any] = {
    "kind": "text.generate",
    "model": "gemini-flash",
    "input": {"prompt": "Write a haiku about a plantain."},
}
IMAGE_JOB: dict[str, Any] = {
    "kind": "image.generate",
    "model": "nano-banana",
    "input": {"prompt": "A plantain wearing sunglasses", "aspect_ratio": "16:9", "size": "1K"},
}
USAGE = {"input_tokens": 8, "output_tokens": 20, "thought_tokens": 0, "image_tokens": 0, "cached_tokens": 0}


async def project(database: Database, name: str = "default") -> UUID:
    async with database.transaction() as db:
        return await access.project(db, name)


async def key(
    database: Database,
    *,
    project: str = "default",
    scopes: Sequence[str] = SCOPES,
    expires_at: datetime | None = None,
) -> str:
    """A fresh API key in plain text."""
    return await service.create(database, project=project, name="test", scopes=scopes, expires_at=expires_at)


async def job(
    database: Database, project_id: UUID, *, state: State = State.QUEUED, result: Any = None, **columns: Any
) -> Row[Any]:
    """A job in the wanted state, led there through its transitions; ``columns`` replace those of the insert.

    A running one is at its first attempt, held by the worker ``test-worker``; a final one after it was sent.
    """
    row = {
        "id": uuid7(),
        "project_id": project_id,
        "kind": "text.generate",
        "model": "gemini-flash",
        "priority": "standard",
        "queue": "text.standard",
        "input": TEXT_JOB["input"],
        "warnings": [],
        "max_attempts": 5,
        "timeout_seconds": 300.0,
        "on_unknown": "retry",
        "scheduled_at": None,
        "expires_at": None,
        **columns,
    }
    async with database.transaction() as db:
        await jobs.submit(db, [row])
    if state is State.EXPIRED:
        await _execute(database, "UPDATE jobs SET expires_at = now() WHERE id = :id", id=row["id"])
        async with database.transaction() as db:
            await jobs.expire(db, limit=1)
    elif state is State.CANCELLED:
        async with database.transaction() as db:
            await jobs.cancel(db, project_id, row["id"])
    elif state is not State.QUEUED:
        await claim(database, row["id"])
    if state in {State.SUCCEEDED, State.FAILED}:
        await finish(database, row["id"], state=state, result=result)
    async with database.transaction() as db:
        return (await jobs.get(db, [row["id"]]))[row["id"]]


async def claim(database: Database, job_id: UUID, *, worker: str = "test-worker") -> None:
    async with database.transaction() as db:
        await jobs.claim(db, [job_id], worker=worker, lease=30, grace=10)


async def send(database: Database, job_id: UUID, number: int = 1) -> None:
    """Notes that the provider is being called."""
    async with database.transaction() as db:
        await jobs.mark_sent(db, [{"job_id": job_id, "number": number, "estimate": "0.001"}])


async def finish(
    database: Database, job_id: UUID, *, state: State, number: int = 1, result: Any = None, **fields: Any
) -> None:
    """Ends an attempt, sent and answered by the provider ``simulator``."""
    assert state in FINAL
    await send(database, job_id, number)
    succeeded = state is State.SUCCEEDED
    error = {"code": "invalid_request", "message": "The provider refused.", "retryable": False}
    row = {
        "job_id": job_id,
        "number": number,
        "state": state,
        "outcome": "succeeded" if succeeded else "failed",
        "counted": True,
        "not_called": False,
        "estimate": None,
        "answered": True,
        "result": (result or {"text": "green and yellow", "finish_reason": "stop"}) if succeeded else None,
        "error": None if succeeded else error,
        "delay": None,
        "waiting_reason": None,
        "provider": "simulator",
        "upstream_model": "gemini-3.8-flash",
        "model_version": "gemini-3.8-flash-001",
        "upstream_request_id": "upstream-1",
        "usage": USAGE if succeeded else None,
        "cost": "0.00008100",
        "event": f"job.{state}",
        "data": {},
        **fields,
    }
    async with database.transaction() as db:
        await jobs.finish(db, [row])


async def artifact(
    database: Database, job: Row[Any], data: bytes, *, media_type: str = "image/png", position: int = 0
) -> UUID:
    """An output picture of a job; the bytes need not be one."""
    artifact_id = uuid7()
    async with database.transaction() as db:
        await artifacts.insert(
            db,
            artifact_id=artifact_id,
            project_id=job.project_id,
            job_id=job.id,
            role="output",
            position=position,
            media_type=media_type,
            data=data,
            digest=artifacts.digest_of(data),
            width=16,
            height=9,
        )
    return artifact_id


async def worker(
    database: Database, *, name: str = "test-worker", queues: Sequence[str] = ALL_QUEUES, age: float = 0
) -> None:
    """A worker process that was last heard of ``age`` seconds ago."""
    await _execute(
        database,
        "INSERT INTO workers (name, queues, concurrency, in_flight, heartbeat_at) "
        "VALUES (:name, CAST(:queues AS text[]), 100, 0, now() - make_interval(secs => :age))",
        name=name,
        queues=list(queues),
        age=age,
    )


async def _execute(database: Database, statement: str, **parameters: Any) -> None:
    async with database.transaction() as db:
        await db.execute(text(statement), parameters)
