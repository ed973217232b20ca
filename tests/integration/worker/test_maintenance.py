"""What beat does: ring for what is due, take back what was lost, ring again for lost messages; and what it leaves alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from redis import Redis

from scripts.embedded import EmbeddedPostgres, EmbeddedValkey
from shared.config import Settings
from shared.db import Database
from shared.jobs.status import State
from shared.queue import Doorbell
from shared.wakeups import Wakeups
from tests import factories
from tests.conftest import SettingsFactory
from tests.integration.worker.conftest import Table
from worker import beat
from worker.beat import Running
from worker.maintenance import Maintenance

QUEUE = "text.standard"


@pytest.fixture
def settings(make_settings: SettingsFactory, tmp_path: Path) -> Settings:
    return make_settings(
        lease_seconds=2,
        lease_renew_seconds=0.5,
        retry_base_seconds=0.001,
        republish_after_seconds=10,
        heartbeat_file=tmp_path / "beat" / "alive",
    )


@pytest.fixture
async def doorbell(settings: Settings) -> AsyncIterator[Doorbell]:
    made = Doorbell(settings)
    yield made
    await made.close()


@pytest.fixture
def maintenance(database: Database, settings: Settings, doorbell: Doorbell, wakeups: Wakeups) -> Maintenance:
    return Maintenance(database, settings, doorbell, wakeups)


@pytest.fixture
def broker(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_url) as client:
        yield client


async def test_workers_not_heard_of_for_a_day_are_forgotten(maintenance: Maintenance, table: Table) -> None:
    """One that crashed said no goodbye."""
    for name, age in (("crashed", 90_000), ("silent", 80_000), ("well", 1)):
        await factories.worker(table.database, name=name, age=age)
    await maintenance.forget_workers()
    assert [row.name for row in await table.ask("SELECT name FROM workers ORDER BY name")] == [
        "silent",
        "well",
    ]


async def test_what_ended_days_ago_is_counted_by_the_hour_and_added_up_by_the_day(
    maintenance: Maintenance, table: Table
) -> None:
    for _ in range(3):
        await factories.job(table.database, table.project_id, state=State.SUCCEEDED)
    await table.ask("UPDATE jobs SET finished_at = now() - interval '48 hours' RETURNING id")
    assert await maintenance.count_ended() == 0
    for kept in ("job_totals", "job_daily_totals"):
        assert [row.jobs for row in await table.ask(f"SELECT jobs FROM {kept}")] == [3], kept


async def make_stale(table: Table) -> None:
    await table.run(
        "UPDATE jobs SET published_at = now() - interval '1 minute' WHERE published_at IS NOT NULL"
    )


class TestDispatch:
    async def test_a_scheduled_job_is_told_when_its_time_comes(
        self, maintenance: Maintenance, table: Table, broker: Redis
    ) -> None:
        await table.add(scheduled_at=datetime.now(UTC) + timedelta(seconds=0.3))
        assert await maintenance.dispatch_due() == 0
        await asyncio.sleep(0.35)
        assert await maintenance.dispatch_due() == 1
        assert await maintenance.dispatch_due() == 0
        assert broker.llen(QUEUE) == 1

    async def test_more_than_a_batch(self, maintenance: Maintenance, table: Table, broker: Redis) -> None:
        ids = [await table.add() for _ in range(3)]
        await table.run(
            "INSERT INTO jobs (id, project_id, kind, model, queue, input, max_attempts, timeout_seconds) "
            "SELECT gen_random_uuid(), project_id, kind, model, queue, input, max_attempts, timeout_seconds "
            "FROM jobs, generate_series(1, 400)"
        )
        await table.run("UPDATE jobs SET published_at = NULL")
        assert await maintenance.dispatch_due() == 1203
        assert broker.llen(QUEUE) == 1203
        assert len(ids) == 3

    async def test_without_a_broker_jobs_stay_due(
        self, maintenance: Maintenance, table: Table, valkey: EmbeddedValkey, broker: Redis
    ) -> None:
        await table.add()
        await table.run("UPDATE jobs SET published_at = NULL")
        await asyncio.to_thread(valkey.stop)
        started = time.monotonic()
        assert await maintenance.dispatch_due() == 0
        before = await table.ask("SELECT xmin, published_at FROM jobs")
        assert before[0].published_at is None
        for _ in range(5):
            assert await maintenance.dispatch_due() == 0
        assert time.monotonic() - started < 6
        assert await table.ask("SELECT xmin, published_at FROM jobs") == before, "not marked again and again"
        await asyncio.to_thread(valkey.start)
        await asyncio.sleep(2.1)
        assert await maintenance.dispatch_due() == 1
        assert broker.llen(QUEUE) == 1


class TestRepublish:
    async def test_lost_messages_are_sent_again(
        self, maintenance: Maintenance, table: Table, broker: Redis
    ) -> None:
        for _ in range(5):
            await table.add()
        assert await maintenance.republish() == 0, "they were told a moment ago"
        await make_stale(table)
        assert await maintenance.republish() == 5
        assert await maintenance.republish() == 0
        assert broker.llen(QUEUE) == 5

    async def test_a_backlog_whose_messages_all_lie_there_is_left_alone(
        self, maintenance: Maintenance, table: Table, doorbell: Doorbell, broker: Redis
    ) -> None:
        ids = [await table.add() for _ in range(5)]
        await doorbell.ring([(job_id, QUEUE) for job_id in ids])
        await make_stale(table)
        for _ in range(3):
            assert await maintenance.republish() == 0
        assert broker.llen(QUEUE) == 5

    async def test_as_many_as_are_missing(
        self, maintenance: Maintenance, table: Table, doorbell: Doorbell, broker: Redis
    ) -> None:
        ids = [await table.add() for _ in range(5)]
        await doorbell.ring([(job_id, QUEUE) for job_id in ids[:3]])
        await make_stale(table)
        assert await maintenance.republish() == 2
        assert broker.llen(QUEUE) == 5

    async def test_two_at_once_send_each_once(
        self,
        maintenance: Maintenance,
        table: Table,
        database: Database,
        settings: Settings,
        wakeups: Wakeups,
        broker: Redis,
    ) -> None:
        for _ in range(20):
            await table.add()
        await make_stale(table)
        other = Doorbell(settings)
        counts = await asyncio.gather(
            maintenance.republish(), Maintenance(database, settings, other, wakeups).republish()
        )
        assert sum(counts) == broker.llen(QUEUE) == 20
        await other.close()


async def test_a_rescued_job_is_due_at_once(maintenance: Maintenance, table: Table, broker: Redis) -> None:
    job_id = await table.add(state=State.RUNNING)
    await table.run("UPDATE jobs SET lease_until = now() - interval '1 second'")
    assert await maintenance.rescue() == 1
    assert await maintenance.dispatch_due() == 1
    assert (await table.get(job_id)).waiting_reason == "retry_backoff"
    assert broker.llen(QUEUE) == 1


async def test_a_job_whose_worker_dies_every_time_ends(maintenance: Maintenance, table: Table) -> None:
    job_id = await table.add(state=State.RUNNING, max_attempts=3)
    for number in range(1, 4):
        assert (await table.get(job_id)).attempt == number
        await table.run("UPDATE jobs SET lease_until = now() - interval '1 second'")
        assert await maintenance.rescue() == 1
        from tests import factories

        await factories.claim(table.database, job_id)
    job = await table.get(job_id)
    assert (job.state, job.error["code"], job.error["retryable"]) == ("failed", "worker_lost", True)


async def test_a_lost_job_that_was_called_off_ends_cancelled(maintenance: Maintenance, table: Table) -> None:
    job_id = await table.add(state=State.RUNNING)
    await table.cancel(job_id)
    await table.run("UPDATE jobs SET lease_until = now() - interval '1 second'")
    assert await maintenance.rescue() == 1
    assert (await table.get(job_id)).state == "cancelled"


async def test_idempotency_keys_are_kept_for_seven_days(maintenance: Maintenance, table: Table) -> None:
    """More than a batch are due: what is left after a pass is younger."""
    await table.run(
        "INSERT INTO idempotency_keys (project_id, key, fingerprint, status, headers, body, created_at) "
        "SELECT p.id, n::text, sha256('a'), 202, '{}', '{}', now() - make_interval(days => 7, mins => 250 - n) "
        "FROM projects p, generate_series(1, 500) AS n"
    )
    await maintenance.prune()
    left = await table.ask("SELECT min(key::int) AS first, count(*) AS kept FROM idempotency_keys")
    assert [(row.first, row.kept) for row in left] == [(251, 250)]


class TestBeat:
    @pytest.fixture
    def running(self, settings: Settings) -> Iterator[Running]:
        made = Running(settings)
        yield made
        made.close()

    def test_the_schedule_names_every_pass(self, running: Running) -> None:
        assert set(beat.SCHEDULE) == set(running._passes)

    async def test_after_an_outage_workers_come_before_rescues(
        self, running: Running, table: Table, postgres: EmbeddedPostgres, settings: Settings
    ) -> None:
        """Their leases ran out because nobody could renew them, and their answers wait to be stored."""
        job_id = await table.add(state=State.RUNNING)
        await table.run("UPDATE jobs SET lease_until = now() - interval '1 second'")
        await asyncio.to_thread(postgres.stop)
        await asyncio.to_thread(running.run, "dispatch_due")
        await asyncio.to_thread(postgres.start)
        await table.database.engine.dispose()
        back = time.monotonic()
        while (await table.get(job_id)).state == "running":
            await asyncio.to_thread(running.run, "rescue")
            await asyncio.sleep(0.05)
        waited = time.monotonic() - back
        assert settings.lease_renew_seconds <= waited < 5

    async def test_it_goes_on_and_is_well_without_broker_and_database(
        self,
        running: Running,
        settings: Settings,
        postgres: EmbeddedPostgres,
        valkey: EmbeddedValkey,
        table: Table,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        assert settings.heartbeat_file is not None
        await table.add()
        await make_stale(table)
        await asyncio.to_thread(valkey.stop)
        await asyncio.to_thread(running.run, "republish")
        assert settings.heartbeat_file.exists()
        assert "the broker is away" in caplog.text
        assert "Traceback" not in caplog.text
        await asyncio.to_thread(running.run, "rescue")
        await asyncio.to_thread(postgres.stop)
        settings.heartbeat_file.unlink()
        await asyncio.to_thread(running.run, "expire")
        assert settings.heartbeat_file.exists(), "a database that is away is no reason to restart beat"
        await asyncio.to_thread(postgres.start)
        await asyncio.to_thread(valkey.start)

    async def test_a_heartbeat_file_that_cannot_be_written_ends_nothing(
        self, settings: Settings, tmp_path: Path
    ) -> None:
        (tmp_path / "beat").write_text("a file where the folder should be")
        running = Running(settings)
        await asyncio.to_thread(running.run, "expire")
        await asyncio.to_thread(running.close)
