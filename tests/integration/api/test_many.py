"""Tags and metadata, GET /jobs/summary, POST /jobs/cancel."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import httpx
import pytest

from shared.db import Database
from shared.jobs.status import State
from tests import factories
from tests.integration.api.conftest import problem


async def test_tags_and_metadata_come_back_and_find_the_job(client: httpx.AsyncClient) -> None:
    own = {"tags": ["env:prod", "b", "b"], "metadata": {"user": "a=b", "empty": ""}}
    made = (await client.post("/api/v1/jobs", json={**factories.TEXT_JOB, **own})).json()
    plain = (await client.post("/api/v1/jobs", json=factories.TEXT_JOB)).json()
    assert (plain["tags"], plain["metadata"]) == ([], {})
    seen = (await client.get(made["status_url"])).json()
    for view in (made, seen):
        assert view["tags"] == ["env:prod", "b"]
        assert view["metadata"] == own["metadata"]
    for query in ("tag=b&tag=env:prod", "metadata=user%3Da%3Db", "metadata=empty%3D", "tag=b&q=HAIKU"):
        page = (await client.get(f"/api/v1/jobs?{query}")).json()
        assert [job["id"] for job in page["items"]] == [made["id"]], query
    assert (await client.get("/api/v1/jobs?tag=b&metadata=user%3Dx")).json()["items"] == []


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"tags": ["two words"]}, "/tags/0"),
        ({"tags": ["x" * 65]}, "/tags/0"),
        ({"tags": [f"t{n}" for n in range(17)]}, "/tags"),
        ({"tags": "a"}, "/tags"),
        ({"metadata": {"k": 1}}, "/metadata/k"),
        ({"metadata": {"k": "x" * 257}}, "/metadata/k"),
        ({"metadata": {"k": "\0"}}, "/metadata/k"),
        ({"metadata": {f"k{n}": "" for n in range(17)}}, "/metadata"),
    ],
)
async def test_what_is_too_long_or_too_many_is_named(
    client: httpx.AsyncClient, fields: dict[str, Any], pointer: str
) -> None:
    found = problem(
        await client.post("/api/v1/jobs", json={**factories.TEXT_JOB, **fields}), 422, "validation_failed"
    )
    assert found["errors"][0]["pointer"] == pointer


async def test_the_summary_counts_states_reasons_and_costs(
    client: httpx.AsyncClient, database: Database, project_id: UUID
) -> None:
    for state in (State.SUCCEEDED, State.SUCCEEDED, State.FAILED, State.RUNNING, State.QUEUED):
        await factories.job(database, project_id, state=state)
    await factories.job(database, await factories.project(database, "others"))
    found = (await client.get("/api/v1/jobs/summary")).json()
    assert found["states"] == {
        "queued": 1, "running": 1, "succeeded": 2, "failed": 1, "cancelled": 0, "expired": 0,
    }  # fmt: skip
    assert found["waiting"] == {"no_workers": 1}
    assert found["cost_usd"] == {"today": "0.000243", "total": "0.000243"}
    [queue] = found["queues"]
    assert (queue["queue"], queue["queued"], queue["running"]) == ("text.standard", 1, 1)
    assert 0 <= queue["oldest_waiting_seconds"] < 60
    [model] = found["models"]
    assert (model["kind"], model["model"]) == ("text.generate", "gemini-flash")
    past = (await client.get("/api/v1/jobs/summary?finished_before=2020-01-01T00:00:00Z")).json()
    assert (past["states"]["succeeded"], past["states"]["running"]) == (0, 1)


async def test_many_are_cancelled_by_a_filter(
    client: httpx.AsyncClient, database: Database, project_id: UUID
) -> None:
    await factories.job(database, project_id, state=State.SUCCEEDED, tags=["a"])
    await factories.job(database, project_id, state=State.RUNNING, tags=["a"])
    for tag in ("a", "a", "b"):
        await factories.job(database, project_id, tags=[tag])
    other = await factories.project(database, "others")
    await factories.job(database, other, tags=["a"])

    async def cancel(**body: Any) -> dict[str, Any]:
        response = await client.post("/api/v1/jobs/cancel", json={"filter": {"tag": ["a"]}, **body})
        assert response.status_code == 200, response.text
        return dict(response.json())

    nothing = {"cancelled": 0, "cancel_requested": 0}
    assert await cancel(dry_run=True) == {"dry_run": True, "matched": 3, "more": False, **nothing}
    assert await cancel(limit=1, dry_run=True) == {"dry_run": True, "matched": 1, "more": True, **nothing}
    done = await cancel()
    assert done == {"dry_run": False, "matched": 3, "cancelled": 2, "cancel_requested": 1, "more": False}
    again = await cancel()
    assert again == {"dry_run": False, "matched": 1, "more": False, **nothing}
    left = (await client.get("/api/v1/jobs?state=queued")).json()["items"]
    assert [job["tags"] for job in left] == [["b"]]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"filter": {}},
        {"filter": {"stat": ["queued"]}},
        {"filter": {"kind": "video"}},
        {"filter": {"q": "x"}},
        # What looks like a condition and is none would let every job through.
        {"filter": {"state": []}},
        {"filter": {"state": [""]}},
        {"filter": {"state": [{}]}},
        {"filter": {"state": [None]}},
        {"filter": {"kind": None}},
    ],
)
async def test_a_cancel_without_a_clear_filter_is_refused(
    client: httpx.AsyncClient, database: Database, project_id: UUID, body: dict[str, Any]
) -> None:
    row = await factories.job(database, project_id)
    assert (await client.post("/api/v1/jobs/cancel", json=body)).status_code == 422
    assert (await client.get(f"/api/v1/jobs/{row.id}")).json()["state"] == "queued"
