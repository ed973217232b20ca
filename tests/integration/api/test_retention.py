"""keep_for: how long a job asks to be kept."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from api.app import create_app
from tests import factories
from tests.conftest import SettingsFactory
from tests.integration.api.conftest import bearer, problem
from tests.integration.api.test_submit import submit


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [
        (60, 60),
        (90.5, 90.5),
        ("PT1M", 60),
        ("P7D", 604_800),
        ("P2W", 1_209_600),
        ("P1W1DT1H1M1S", 694_861),
        ("P3650D", 315_360_000),
        (None, None),
    ],
)
async def test_seconds_or_a_duration(client: httpx.AsyncClient, asked: Any, seconds: float | None) -> None:
    job = (await submit(client, keep_for=asked)).json()
    assert job["keep_for"] == seconds
    assert (await client.get(job["status_url"])).json()["keep_for"] == seconds


@pytest.mark.parametrize(
    "asked",
    [
        0,
        59,
        -1,
        315_360_001,
        True,
        "",
        "P",
        "PT",
        "P1DT",
        "7D",
        "P1Y",
        "P1M",
        "p7d",
        "P-7D",
        "P1.5D",
        "PT59S",
        [],
        "1:00",
    ],
)
async def test_what_is_no_length_of_time_is_told(client: httpx.AsyncClient, asked: Any) -> None:
    (error,) = problem(await submit(client, keep_for=asked), 422, "validation_failed")["errors"]
    assert error["pointer"] == "/keep_for"


async def test_the_setting_is_the_default(make_settings: SettingsFactory, database: Any) -> None:
    app = create_app(make_settings(retention_days=30))
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app=app)
        headers = bearer(await factories.key(database))
        async with httpx.AsyncClient(transport=transport, base_url="http://api", headers=headers) as client:
            assert (await submit(client)).json()["keep_for"] == 30 * 86_400
            assert (await submit(client, keep_for=None)).json()["keep_for"] == 30 * 86_400
            assert (await submit(client, keep_for="P60D")).json()["keep_for"] == 60 * 86_400
