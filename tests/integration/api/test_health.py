"""Liveness and readiness."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from api.app import create_app
from api.shortcut import Application
from scripts.embedded import EmbeddedValkey
from shared.config import Settings
from shared.db import Database
from shared.jobs.status import State
from shared.queue import ALL_QUEUES
from tests import factories
from tests.conftest import SettingsFactory
from tests.integration.api.conftest import bearer, problem


async def ready(client: httpx.AsyncClient) -> tuple[int, dict[str, Any]]:
    response = await client.get("/api/health/ready")
    return response.status_code, response.json()


async def test_ready_where_all_is_well(anonymous: httpx.AsyncClient, database: Database) -> None:
    await factories.worker(database)
    status, report = await ready(anonymous)
    assert (status, report["status"]) == (200, "ready")
    found = report["dependencies"]
    assert found["postgresql"]["migrations"] == "current"
    assert found["postgresql"]["state"] == found["redis"]["state"] == found["workers"]["state"] == "ok"
    assert found["workers"]["alive"] == dict.fromkeys(ALL_QUEUES, 1)
    assert (await anonymous.get("/api/health")).json()["status"] == "ready"
    for path in ("/api/health", "/api/health/live", "/api/health/ready"):
        assert (await anonymous.head(path)).status_code == 200


async def test_degraded_where_a_queue_has_no_worker(anonymous: httpx.AsyncClient, database: Database) -> None:
    await factories.worker(database, queues=["text.standard", "text.batch"])
    await factories.worker(database, name="gone", age=60)
    status, report = await ready(anonymous)
    assert (status, report["status"]) == (200, "degraded")
    workers = report["dependencies"]["workers"]
    assert workers["alive"]["text.standard"] == 1
    assert workers["alive"]["image.standard"] == 0
    assert "image.standard" in workers["detail"]
    assert "text.standard" not in workers["detail"]


async def test_tables_that_are_missing_or_old_say_what_to_do(
    anonymous: httpx.AsyncClient, database: Database
) -> None:
    async def revision(statement: str) -> tuple[int, dict[str, Any]]:
        async with database.transaction() as db:
            await db.execute(text(statement))
        status, report = await ready(anonymous)
        return status, report["dependencies"]["postgresql"]

    status, found = await revision("UPDATE alembic_version SET version_num = 'later'")
    assert (status, found["migrations"]) == (200, "newer")
    status, found = await revision("DELETE FROM alembic_version")
    assert (status, found["migrations"]) == (503, "missing")
    status, found = await revision("DROP TABLE alembic_version")
    assert (status, found["migrations"]) == (503, "missing")
    assert "scripts/migrate" in found["detail"]
    assert (await anonymous.get("/api/health/live")).status_code == 200


async def test_a_read_only_database_is_told_from_one_that_is_away(
    settings: Settings, database: Database, key: str
) -> None:
    """Its jobs can be looked at."""
    async with database.transaction() as db:
        job = await factories.job(database, await factories.project(database))
        name = (await db.execute(text("SELECT current_database()"))).scalar_one()
        # Holds for connections made from now on.
        await db.execute(text(f"ALTER DATABASE {name} SET default_transaction_read_only = on"))
    app = create_app(settings)
    transport = httpx.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://api", headers=bearer(key)) as client,
    ):
        refused = problem(await client.post("/api/v1/jobs", json=factories.TEXT_JOB), 503, "unavailable")
        assert "read-only" in refused["detail"]
        assert (await client.get(f"/api/v1/jobs/{job.id}")).status_code == 200
        assert (await client.get("/api/v1/jobs")).status_code == 200
        status, report = await ready(client)
    assert (status, report["status"]) == (503, "unavailable")
    assert report["dependencies"]["postgresql"]["state"] == "read_only"
    assert report["dependencies"]["workers"]["state"] == "missing", "it could be asked"


class TestWithoutPostgresql:
    async def test_it_starts_lives_and_is_not_ready(
        self, make_settings: SettingsFactory, caplog: pytest.LogCaptureFixture
    ) -> None:
        settings = make_settings(database_url="postgresql://plantain:hidden@127.0.0.1:9/x")
        app = create_app(settings)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://api") as client,
        ):
            status, report = await ready(client)
            assert (await client.get("/api/health/live")).status_code == 200
        assert (status, report["status"]) == (503, "unavailable")
        assert report["dependencies"]["redis"]["state"] == "ok"
        assert report["dependencies"]["workers"]["state"] == "unknown"
        assert "hidden" not in str(report)
        assert "127.0.0.1" not in str(report)
        assert "not ready" in caplog.text
        (reason,) = (line for line in caplog.messages if line.startswith("the database cannot be used: "))
        assert "refused" in reason, "once, and with what the driver said"


class TestWithoutRedis:
    async def test_stopped_submits_are_answered_and_it_says_degraded(
        self, client: httpx.AsyncClient, database: Database, valkey: EmbeddedValkey
    ) -> None:
        await factories.worker(database)
        valkey.stop()
        job = await submit_in_time(client)
        status, report = await ready(client)
        assert (status, report["status"]) == (200, "degraded")
        assert report["dependencies"]["redis"]["state"] == "unavailable"
        valkey.start()
        async with database.transaction() as db:
            row = (await db.execute(text("SELECT state, published_at FROM jobs"))).one()
        assert tuple(row) == ("queued", None), "left for the dispatcher to publish"
        assert (await client.get(job["status_url"])).status_code == 200
        assert (await ready(client))[1]["status"] == "ready"

    async def test_hanging_submits_polls_and_cancels_are_answered_in_time(
        self, app: Application, client: httpx.AsyncClient, valkey: EmbeddedValkey, database: Database
    ) -> None:
        del app
        await client.post("/api/v1/jobs", json=factories.TEXT_JOB)  # connections are open
        running = await factories.job(database, await factories.project(database), state=State.RUNNING)
        os.kill(valkey.pid, signal.SIGSTOP)
        try:
            job = await submit_in_time(client)
            started = time.monotonic()
            for _ in range(5):
                await submit_in_time(client)
            assert time.monotonic() - started < 4, "a hang is waited for once"
            assert (await client.get(job["status_url"])).status_code == 200
            started = time.monotonic()
            cancelled = await client.post(f"/api/v1/jobs/{running.id}/cancel")
            assert cancelled.json()["outcome"] == "cancel_requested"
            status, report = await ready(client)
            assert (status, report["status"]) == (200, "degraded")
            assert time.monotonic() - started < 4
        finally:
            os.kill(valkey.pid, signal.SIGCONT)


async def submit_in_time(client: httpx.AsyncClient) -> dict[str, Any]:
    started = time.monotonic()
    response = await client.post("/api/v1/jobs", json=factories.TEXT_JOB)
    assert response.status_code == 202, response.text
    assert time.monotonic() - started < 4.5, "less than a socket's own timeout"
    job: dict[str, Any] = response.json()
    return job
