"""The API does what its OpenAPI document says, and the document says what the API does."""

from __future__ import annotations

import asyncio

import pytest

from tests.contract.api.conformance import Conformance, ask_everything
from tests.contract.api.conftest import Api


async def run(api: Api, seed: int, examples: int, *, thorough: bool) -> Conformance:
    known = {"job_id": api.jobs, "artifact_id": api.artifacts, "batch_id": api.batches}
    found = await asyncio.to_thread(
        ask_everything, api.url, api.key, seed=seed, examples=examples, known=known, thorough=thorough
    )
    print(found.report())
    return found


@pytest.mark.timeout(300)
async def test_a_sample_of_everything_is_answered_as_documented(api: Api, seed: int) -> None:
    found = await run(api, seed, 7, thorough=False)
    assert not found.failures, found.report()


@pytest.mark.slow
@pytest.mark.timeout(1800)
async def test_everything_is_answered_as_documented(api: Api, seed: int) -> None:
    found = await run(api, seed, 60, thorough=True)
    assert not found.failures, found.report()
