"""The fixtures that everything else stands on."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis
from sqlalchemy import text

from shared.config import Settings
from shared.db import Database
from shared.jobs.status import State
from tests import factories


@pytest.mark.parametrize("state", list(State))
async def test_a_job_can_be_made_in_every_state(database: Database, state: State) -> None:
    row = await factories.job(database, await factories.project(database), state=state)
    assert row.state == state


async def test_each_test_has_an_empty_database(database: Database) -> None:
    async with database.transaction() as db:
        assert (await db.execute(text("SELECT count(*) FROM jobs"))).scalar_one() == 0
        assert (await db.execute(text("SELECT version_num FROM alembic_version"))).scalar_one()


async def test_each_test_has_an_empty_redis(settings: Settings) -> None:
    async with Redis.from_url(settings.redis_url.get_secret_value()) as redis:
        assert await redis.dbsize() == 0
        await redis.set("left", "behind")


async def test_redis_is_emptied_between_tests(settings: Settings) -> None:
    async with Redis.from_url(settings.redis_url.get_secret_value()) as redis:
        assert await redis.get("left") is None
