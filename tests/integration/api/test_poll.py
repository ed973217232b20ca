"""GET /jobs/{id}."""

from __future__ import annotations

from uuid import UUID, uuid4

import httpx
import pytest

from shared.db import Database
from shared.jobs.schemas import JobDetail, JobView
from shared.jobs.status import FINAL, State
from tests import factories
from tests.integration.api.conftest import bearer, problem


@pytest.mark.parametrize("state", list(State))
async def test_a_job_is_shown_in_every_state(
    client: httpx.AsyncClient, database: Database, project_id: UUID, state: State
) -> None:
    row = await factories.job(database, project_id, state=state)
    response = await client.get(f"/api/v1/jobs/{row.id}")
    assert response.status_code == 200
    job = response.json()
    assert job["state"] == state
    assert job.keys() == JobView.model_fields.keys()
    JobView.model_validate(job)
    assert ("retry-after" in response.headers) == (state not in FINAL)
    assert (job["finished_at"] is not None) == (state in FINAL)
    assert response.headers["cache-control"] == "private, no-cache"


async def test_cost_and_usage_are_shown_as_recorded(
    client: httpx.AsyncClient, database: Database, project_id: UUID
) -> None:
    row = await factories.job(database, project_id, state=State.SUCCEEDED)
    job = (await client.get(f"/api/v1/jobs/{row.id}")).json()
    assert job["cost_usd"] == "0.000081"
    assert job["usage"] == factories.USAGE
    assert (job["provider"], job["model_version"]) == ("simulator", "gemini-3.8-flash-001")


async def test_an_etag_spares_the_body_until_something_changes(
    client: httpx.AsyncClient, database: Database, project_id: UUID
) -> None:
    row = await factories.job(database, project_id)
    first = await client.get(f"/api/v1/jobs/{row.id}")
    known = {"If-None-Match": f'"other", W/{first.headers["etag"]}'}
    again = await client.get(f"/api/v1/jobs/{row.id}", headers=known)
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    assert "retry-after" in again.headers
    await factories.claim(database, row.id)
    changed = await client.get(f"/api/v1/jobs/{row.id}", headers=known)
    assert changed.status_code == 200
    assert changed.json()["state"] == "running"
    assert changed.headers["etag"] != first.headers["etag"]


async def test_why_it_waits_depends_on_workers_and_changes_the_etag(
    client: httpx.AsyncClient, database: Database, project_id: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.jobs.waiting._WORKERS_CACHE_SECONDS", 0)
    row = await factories.job(database, project_id)
    alone = await client.get(f"/api/v1/jobs/{row.id}")
    await factories.worker(database, name="text", queues=["image.standard"])
    await factories.worker(database, name="gone", age=60)
    assert alone.json()["waiting_reason"] == "no_workers"
    still = await client.get(f"/api/v1/jobs/{row.id}", headers={"If-None-Match": alone.headers["etag"]})
    assert still.status_code == 304
    await factories.worker(database, name="alive", queues=["text.standard"])
    served = await client.get(f"/api/v1/jobs/{row.id}", headers={"If-None-Match": alone.headers["etag"]})
    assert served.json()["waiting_reason"] == "in_queue"


async def test_attempts_are_shown_where_asked_for(
    client: httpx.AsyncClient, database: Database, project_id: UUID
) -> None:
    row = await factories.job(database, project_id, state=State.RUNNING)
    url = f"/api/v1/jobs/{row.id}?include=attempts"
    claimed = await client.get(url)
    JobDetail.model_validate(claimed.json())
    assert [attempt["sent_at"] for attempt in claimed.json()["attempts"]] == [None]
    await factories.send(database, row.id)
    sent = await client.get(url, headers={"If-None-Match": claimed.headers["etag"]})
    assert sent.status_code == 200, "sending is no event, and still something new"
    assert sent.json()["attempts"][0]["sent_at"]
    assert sent.json()["attempts"][0]["estimated_cost_usd"] == "0.001"
    assert (await client.get(url, headers={"If-None-Match": sent.headers["etag"]})).status_code == 304
    assert "attempts" not in (await client.get(f"/api/v1/jobs/{row.id}")).json()


async def test_another_include_is_refused(
    client: httpx.AsyncClient, database: Database, project_id: UUID
) -> None:
    row = await factories.job(database, project_id)
    body = problem(await client.get(f"/api/v1/jobs/{row.id}?include=events"), 422, "validation_failed")
    assert body["errors"][0] | {"message": ""} == {
        "pointer": "?include",
        "code": "not_allowed",
        "message": "",
        "allowed": ["attempts"],
    }


@pytest.mark.parametrize(
    "job_id",
    [
        "1",
        "x" * 36,
        "{0198a7c2-6f0e-7c3a-9a53-0f6d2b9d8e11}",
        "0198a7c26f0e7c3a9a530f6d2b9d8e11",
        "%00",
        "%ED%A0%80",
        "x" * 9000,
    ],
)
async def test_what_is_no_id_is_nobodys_id(client: httpx.AsyncClient, job_id: str) -> None:
    for path in (f"/api/v1/jobs/{job_id}", f"/api/v1/jobs/{job_id}/result"):
        problem(await client.get(path), 404, "job_not_found")
    problem(await client.post(f"/api/v1/jobs/{job_id}/cancel"), 404, "job_not_found")
    problem(await client.get(f"/api/v1/artifacts/{job_id}"), 404, "artifact_not_found")


async def test_another_projects_job_looks_like_none(client: httpx.AsyncClient, database: Database) -> None:
    row = await factories.job(database, await factories.project(database, "others"), state=State.SUCCEEDED)
    unknown = uuid4()
    for path in ("", "?include=attempts", "/result"):
        theirs = problem(await client.get(f"/api/v1/jobs/{row.id}{path}"), 404, "job_not_found")
        nobodys = problem(await client.get(f"/api/v1/jobs/{unknown}{path}"), 404, "job_not_found")
        assert theirs["detail"].replace(str(row.id), "") == nobodys["detail"].replace(str(unknown), "")
    problem(await client.post(f"/api/v1/jobs/{row.id}/cancel"), 404, "job_not_found")
    owner = await factories.key(database, project="others")
    assert (await client.get(f"/api/v1/jobs/{row.id}", headers=bearer(owner))).status_code == 200
