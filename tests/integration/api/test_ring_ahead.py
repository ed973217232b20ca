"""A lone submit's message is on its way while its job is stored (shared.queue.RingAhead)."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import orjson
import psycopg
import pytest
from redis import Redis as BlockingRedis
from redis.asyncio import Redis
from sqlalchemy import text

from api.shortcut import Application
from shared.config import Settings
from shared.db import Database
from shared.jobs import queries
from tests import factories
from tests.integration.api.conftest import problem
from tests.patience import PATIENCE


@pytest.fixture
async def redis(settings: Settings) -> AsyncIterator[Redis]:
    async with Redis.from_url(settings.redis_url.get_secret_value()) as broker:
        yield broker


async def told(redis: Redis, queue: str = "text.standard") -> list[str]:
    """The jobs whose messages lie in a queue, the oldest first."""
    messages = [orjson.loads(message) for message in await redis.lrange(queue, 0, -1)]
    return [orjson.loads(base64.b64decode(message["body"]))[0][0] for message in reversed(messages)]


@asynccontextmanager
async def storing_takes(settings: Settings) -> AsyncIterator[None]:
    """Until the block ends, no new job gets stored; whatever else is done to jobs is."""
    url = settings.database_url.get_secret_value().replace("+psycopg", "")
    async with await psycopg.AsyncConnection.connect(url) as db:
        await db.execute("LOCK TABLE job_labels IN SHARE MODE")
        yield


async def submit(client: httpx.AsyncClient, **changes: Any) -> httpx.Response:
    return await client.post("/api/v1/jobs", json={**factories.TEXT_JOB, **changes})


async def until_told(redis: Redis, count: int) -> list[str]:
    async with asyncio.timeout(PATIENCE):
        while len(await told(redis)) < count:
            await asyncio.sleep(0.005)
    return await told(redis)


async def count_jobs(database: Database) -> int:
    async with database.transaction() as db:
        return int((await db.execute(text("SELECT count(*) FROM jobs"))).scalar_one())


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long storing takes, workers are taken to wait for it: nothing is rung for again."""
    monkeypatch.setattr("shared.queue.AHEAD_SECONDS", 1000)


@pytest.mark.usefixtures("unhurried")
async def test_its_message_is_there_before_it_is_stored(
    client: httpx.AsyncClient, settings: Settings, database: Database, redis: Redis
) -> None:
    async with storing_takes(settings):
        submitting = asyncio.create_task(submit(client))
        ahead = await until_told(redis, 1)
        assert await count_jobs(database) == 0
        assert not submitting.done()
    answer = await submitting
    assert answer.status_code == 202
    assert ahead == [answer.json()["id"]] == await told(redis)


async def test_its_message_leaves_before_its_statement(
    client: httpx.AsyncClient, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server that stores it, once woken, may take the core, and a message that waits for that is no earlier."""
    assert (await submit(client)).status_code == 202  # its connection to the broker is there now
    storing, seen = queries.submit, []

    async def watched(*given: Any) -> Any:
        # Blocks the loop, so that nothing leaves meanwhile.
        with BlockingRedis.from_url(settings.redis_url.get_secret_value()) as redis:
            until = time.monotonic() + 5
            while (length := redis.llen("text.standard")) < 2 and time.monotonic() < until:
                time.sleep(0.001)
        seen.append(length)
        return await storing(*given)

    monkeypatch.setattr(queries, "submit", watched)
    assert (await submit(client)).status_code == 202
    assert seen == [2]


async def test_where_storing_took_long_it_is_rung_for_again(
    client: httpx.AsyncClient, settings: Settings, redis: Redis
) -> None:
    """The worker that heard the first message may have stopped waiting."""
    async with storing_takes(settings):
        submitting = asyncio.create_task(submit(client))
        await until_told(redis, 1)
        await asyncio.sleep(0.6)
    answer = await submitting
    assert answer.status_code == 202
    assert await told(redis) == [answer.json()["id"]] * 2


@pytest.mark.usefixtures("unhurried")
async def test_of_many_none_is_rung_for_ahead(
    client: httpx.AsyncClient, settings: Settings, redis: Redis
) -> None:
    """Workers have other work than to wait for them."""
    async with storing_takes(settings):
        first = asyncio.create_task(submit(client))
        await until_told(redis, 1)
        many = [asyncio.create_task(submit(client)) for _ in range(20)]
        await asyncio.sleep(0.2)
        assert len(await told(redis)) <= 2, "of the many, at most the one that came before all others"
    answers = await asyncio.gather(first, *many)
    assert sorted(await told(redis)) == sorted(answer.json()["id"] for answer in answers)


async def test_one_for_later_is_not_rung_for(
    client: httpx.AsyncClient, settings: Settings, redis: Redis
) -> None:
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    assert (await submit(client, scheduled_at=later)).status_code == 202
    await asyncio.sleep(0.05)
    assert await told(redis) == []


@pytest.mark.parametrize(
    ("error", "quiet"),
    [(ConnectionError(), 60), (psycopg.errors.DiskFull(), 60), (psycopg.errors.DiskFull(), 0)],
    ids=["away", "full", "full, and reads go well"],
)
@pytest.mark.usefixtures("unhurried")
async def test_nor_is_one_while_the_database_stores_nothing(
    app: Application,
    client: httpx.AsyncClient,
    settings: Settings,
    redis: Redis,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    quiet: float,
) -> None:
    """A worker would wait for jobs that hardly get stored."""
    first = (await submit(client)).json()["id"]
    database = app.services.database
    monkeypatch.setattr("shared.outage._QUIET_SECONDS", quiet)
    monkeypatch.setattr("shared.db._REFUSED_SECONDS", 60)
    database.outage.failed(error)
    await client.get(f"/api/v1/jobs/{first}")
    assert database.outage.lasts == (quiet > 0)
    async with storing_takes(settings):
        submitting = asyncio.create_task(submit(client))
        await asyncio.sleep(0.2)
        assert await told(redis) == [first]
    await submitting
    assert await told(redis) == [first, (await submitting).json()["id"]]


@pytest.mark.usefixtures("unhurried")
async def test_a_failed_insert_calls_it_off(
    app: Application,
    client: httpx.AsyncClient,
    database: Database,
    redis: Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And fails as ever; a message that had left already would find no job."""
    doorbell = app.services.jobs._doorbell
    send, insert_failed = doorbell._send, asyncio.Event()

    async def late(jobs: Any) -> bool:
        await insert_failed.wait()
        sent: bool = await send(jobs)
        return sent

    monkeypatch.setattr(doorbell, "_send", late)
    async with database.transaction() as db:
        await db.execute(text("ALTER TABLE jobs ADD CONSTRAINT none CHECK (false) NOT VALID"))
    try:
        answer = await submit(client)
    finally:
        async with database.transaction() as db:
            await db.execute(text("ALTER TABLE jobs DROP CONSTRAINT none"))
    problem(answer, 500, "internal_error")
    insert_failed.set()
    await asyncio.sleep(0.1)
    assert await told(redis) == []
    stored = await submit(client)
    assert stored.status_code == 202
    assert await told(redis) == [stored.json()["id"]]
    assert await count_jobs(database) == 1
