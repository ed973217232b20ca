"""A project, and short names for what the tests of transitions do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Row, text
from uuid_utils.compat import uuid7

from shared.config import Settings
from shared.db import Database
from shared.jobs import queries
from tests import factories
from tests.conftest import SettingsFactory


@pytest.fixture
def settings(make_settings: SettingsFactory) -> Settings:
    """As many connections as the most parallel test needs."""
    return make_settings(database_pool_size=60)


@pytest.fixture
async def project_id(database: Database) -> UUID:
    return await factories.project(database)


class Jobs:
    """The transitions, each in a transaction of its own."""

    def __init__(self, database: Database, project_id: UUID) -> None:
        self.database = database
        self.project_id = project_id

    async def add(self, **columns: Any) -> UUID:
        return UUID(str((await factories.job(self.database, self.project_id, **columns)).id))

    async def add_many(self, count: int, **columns: Any) -> list[UUID]:
        """Jobs in the order of their ids."""
        rows = [self.row(**columns) for _ in range(count)]
        async with self.database.transaction() as db:
            await queries.submit(db, rows)
        return [row["id"] for row in rows]

    def row(self, **columns: Any) -> dict[str, Any]:
        """What a submit inserts."""
        return {
            "id": uuid7(),
            "project_id": self.project_id,
            "kind": "text.generate",
            "model": "gemini-flash",
            "priority": "standard",
            "queue": "text.standard",
            "input": {"prompt": "hello"},
            "warnings": [],
            "max_attempts": 5,
            "timeout_seconds": 300.0,
            "on_unknown": "retry",
            "scheduled_at": None,
            "expires_at": None,
            **columns,
        }

    async def claim(
        self,
        *ids: UUID,
        worker: str = "w",
        lease: float = 30,
        grace: float = 10,
        noted: Sequence[str] = (),
    ) -> dict[UUID, Row[Any]]:
        async with self.database.transaction() as db:
            return await queries.claim(db, ids, worker=worker, lease=lease, grace=grace, noted=noted)

    async def send(self, *ids: UUID, number: int = 1, estimate: str = "0.001") -> set[UUID]:
        rows = [{"job_id": job_id, "number": number, "estimate": estimate} for job_id in ids]
        async with self.database.transaction() as db:
            return await queries.mark_sent(db, rows)

    async def renew(self, *held: tuple[UUID, int], lease: float = 30) -> dict[UUID, bool]:
        """Whether a cancel is asked for, by job."""
        async with self.database.transaction() as db:
            renewed = await queries.renew(db, held, lease=lease)
        return {job_id: renewal.cancel for job_id, renewal in renewed.items()}

    async def finish(self, *rows: dict[str, Any]) -> dict[UUID, Row[Any]]:
        async with self.database.transaction() as db:
            return await queries.finish(db, rows)

    async def cancel(self, job_id: UUID, project_id: UUID | None = None) -> Row[Any] | None:
        async with self.database.transaction() as db:
            return await queries.cancel(db, project_id or self.project_id, job_id)

    async def get(self, job_id: UUID) -> Row[Any]:
        """Every column."""
        return (await self.ask("SELECT * FROM jobs WHERE id = :id", id=job_id))[0]

    async def attempts(self, job_id: UUID) -> list[Row[Any]]:
        async with self.database.transaction() as db:
            return await queries.attempts(db, job_id)

    async def events(self, job_id: UUID) -> list[str]:
        """Types in order; fails unless their versions are 1, 2, … up to the job's."""
        rows = await self.ask(
            "SELECT version, type, project_id FROM job_events WHERE job_id = :id ORDER BY version", id=job_id
        )
        versions = [row.version for row in rows]
        assert versions == list(range(1, (await self.get(job_id)).version + 1)), "a gap in the sequence"
        assert {row.project_id for row in rows} == {self.project_id}
        return [row.type for row in rows]

    async def last_event(self, job_id: UUID) -> dict[str, Any]:
        rows = await self.ask(
            "SELECT data FROM job_events WHERE job_id = :id ORDER BY version DESC LIMIT 1", id=job_id
        )
        return dict(rows[0].data)

    async def ask(self, statement: str, **parameters: Any) -> list[Row[Any]]:
        async with self.database.transaction() as db:
            return list(await db.execute(text(statement), parameters))

    async def run(self, statement: str, **parameters: Any) -> None:
        async with self.database.transaction() as db:
            await db.execute(text(statement), parameters)

    async def let_the_lease_run_out(self, *ids: UUID) -> None:
        await self.run(
            "UPDATE jobs SET lease_until = now() - interval '1 second' WHERE id = ANY(CAST(:ids AS uuid[]))",
            ids=list(ids),
        )


@pytest.fixture
def jobs(database: Database, project_id: UUID) -> Jobs:
    return Jobs(database, project_id)


def ending(job_id: UUID, number: int = 1, **fields: Any) -> dict[str, Any]:
    """A row for ``finish``: a success unless said otherwise."""
    state = fields.get("state", "succeeded")
    return {
        "job_id": job_id,
        "number": number,
        "state": state,
        "outcome": "succeeded" if state == "succeeded" else "failed",
        "counted": True,
        "not_called": False,
        "estimate": None,
        "answered": False,
        "result": {"text": "done"} if state == "succeeded" else None,
        "error": None if state == "succeeded" else {"code": "x", "message": "y"},
        "delay": 0.0,
        "waiting_reason": "retry_backoff" if state == "queued" else None,
        "provider": "simulator",
        "upstream_model": "upstream",
        "model_version": "v1",
        "upstream_request_id": "r1",
        "usage": {"input_tokens": 1},
        "cost": "0.01",
        "event": "job.retry_scheduled" if state == "queued" else f"job.{state}",
        "data": {"attempt": number},
        **fields,
    }
