"""Submit, poll, result."""

from __future__ import annotations

import httpx

from tests import factories


async def test_a_submitted_job_can_be_looked_at(client: httpx.AsyncClient) -> None:
    response = await client.post("/api/v1/jobs", json=factories.TEXT_JOB)
    assert response.status_code == 202, response.text
    assert (await client.get(response.headers["location"])).json() == response.json()
