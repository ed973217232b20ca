"""POST /jobs/{id}/replay and DELETE /jobs/{id}."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
from sqlalchemy import text
from uuid_utils.compat import uuid7

from shared.db import Database
from shared.jobs.status import FINAL, State
from tests import factories
from tests.integration.api.conftest import bearer, problem
from tests.integration.api.test_idempotency import count, image_job

INPUT = {"messages": [{"role": "user", "text": "a"}], "seed": 3, "stop": ["x", "y"]}


async def made(client: httpx.AsyncClient, body: Any = None, **fields: Any) -> dict[str, Any]:
    response = await client.post("/api/v1/jobs", json={**(body or factories.TEXT_JOB), **fields})
    assert response.status_code == 202, response.text
    job: dict[str, Any] = response.json()
    return job


async def replay(
    client: httpx.AsyncClient, job: dict[str, Any], changes: Any = None, **headers: str
) -> httpx.Response:
    url = f"{job['status_url']}/replay"
    if changes is None:
        return await client.post(url, headers=headers)
    return await client.post(url, json=changes, headers=headers)


async def input_of(database: Database, job: dict[str, Any]) -> Any:
    async with database.transaction() as db:
        return (
            await db.execute(text("SELECT input FROM jobs WHERE id = :id"), {"id": UUID(job["id"])})
        ).scalar()


async def webhook_of(database: Database, job: dict[str, Any]) -> tuple[Any, Any]:
    async with database.transaction() as db:
        row = (
            await db.execute(
                text("SELECT webhook_url, webhook_events FROM jobs WHERE id = :id"), {"id": UUID(job["id"])}
            )
        ).one()
    return row[0], row[1]


class TestReplay:
    async def test_without_a_body_it_is_the_same_job_again(
        self, client: httpx.AsyncClient, database: Database
    ) -> None:
        fields = {
            "priority": "batch",
            "max_attempts": 2,
            "timeout": 17,
            "on_unknown": "fail",
            "keep_for": "P7D",
        }
        soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
        source = await made(
            client, input=INPUT, expires_at=soon, scheduled_at=datetime.now(UTC).isoformat(), **fields
        )
        response = await replay(client, source)
        assert response.status_code == 202, response.text
        job = response.json()
        assert job["replay_of"] == source["id"] != job["id"]
        assert source["replay_of"] is None
        same = ("kind", "model", "priority", "max_attempts", "timeout", "on_unknown", "keep_for")
        assert [job[name] for name in same] == [source[name] for name in same]
        assert (job["state"], job["expires_at"], job["keep_for"]) == ("queued", None, 604_800)
        assert response.headers["location"] == job["status_url"]
        assert await input_of(database, job) == await input_of(database, source) == INPUT
        assert (await client.get(job["status_url"])).json()["replay_of"] == source["id"]

    async def test_labels_come_along_and_webhooks_do_not(
        self, client: httpx.AsyncClient, database: Database
    ) -> None:
        assert (await client.post("/api/v1/webhooks/job-secret")).is_success
        told = {"webhook_url": "https://example.com/hook", "webhook_events": ["job.failed"]}
        labels = {"tags": ["nightly"], "metadata": {"user": "42", "row": "7"}}
        source = await made(client, input=INPUT, **told, **labels)
        same = (await replay(client, source)).json()
        changed = (await replay(client, source, {"metadata": {"row": None}})).json()
        await client.post(source["cancel_url"])
        many = await client.post("/api/v1/jobs/replay", json={"filter": {"state": ["cancelled"]}})
        assert (many.status_code, many.json()["batch"]["total"]) == (202, 1)
        of_batch = (await client.get(many.json()["batch"]["jobs_url"])).json()["items"][0]
        for job in (same, of_batch):
            assert (job["tags"], job["metadata"]) == (labels["tags"], labels["metadata"])
            assert await webhook_of(database, job) == (None, None)
        assert (changed["tags"], changed["metadata"]) == (["nightly"], {"user": "42"})
        assert await webhook_of(database, source) == tuple(told.values())
        found = await client.get("/api/v1/jobs", params={"tag": "nightly"})
        assert len(found.json()["items"]) == 4

    async def test_changes_are_a_merge_patch(self, client: httpx.AsyncClient, database: Database) -> None:
        source = await made(client, input=INPUT, max_attempts=2)
        changes = {
            "max_attempts": None,
            "priority": "interactive",
            "input": {"seed": None, "max_output_tokens": 9, "stop": ["z"]},
        }
        job = (await replay(client, source, changes)).json()
        assert (job["max_attempts"], job["priority"]) == (5, "interactive")
        assert await input_of(database, job) == {
            "messages": INPUT["messages"],
            "max_output_tokens": 9,
            "stop": ["z"],
        }
        prompt = {"input": {"prompt": "b", "messages": None, "seed": None, "stop": None}}
        assert await input_of(database, (await replay(client, job, prompt)).json()) == {
            "prompt": "b",
            "max_output_tokens": 9,
        }

    @pytest.mark.parametrize("state", sorted(FINAL))
    async def test_whatever_became_of_it(
        self, client: httpx.AsyncClient, database: Database, project_id: UUID, state: State
    ) -> None:
        source = await factories.job(database, project_id, state=state)
        response = await client.post(f"/api/v1/jobs/{source.id}/replay")
        assert (response.status_code, response.json()["state"]) == (202, "queued")

    @pytest.mark.parametrize(
        ("changes", "pointer", "code"),
        [
            ({"kind": "image.generate"}, "/kind", "validation_failed"),
            ({"replay_of": "x"}, "/replay_of", "validation_failed"),
            ({"input": {"prompt": "b"}}, "/input", "validation_failed"),
            ({"input": []}, "/input", "validation_failed"),
            ({"model": "nano-banana"}, "/model", "unknown_model"),
            ({"priorty": None}, "/priorty", "validation_failed"),
            ([], "", "validation_failed"),
            ("text", "", "validation_failed"),
        ],
    )
    async def test_what_is_not_allowed_is_told(
        self, client: httpx.AsyncClient, database: Database, changes: Any, pointer: str, code: str
    ) -> None:
        source = await made(client, input=INPUT)
        response = await replay(client, source, changes)
        body = problem(response, 422, code)
        assert body["errors"][0]["pointer"] == pointer
        assert await count(database) == 1

    async def test_input_pictures_come_along(self, client: httpx.AsyncClient, database: Database) -> None:
        source = await made(client, image_job())
        job = (await replay(client, source, {"input": {"prompt": "another"}})).json()
        async with database.transaction() as db:
            rows = (
                await db.execute(
                    text(
                        "SELECT a.job_id, a.sha256, a.media_type, a.width, sha256(b.data) = a.sha256 AS whole, b.data "
                        "FROM artifacts a JOIN artifact_bytes b ON b.artifact_id = a.id ORDER BY a.created_at"
                    )
                )
            ).all()
        assert [str(row.job_id) for row in rows] == [source["id"], job["id"]]
        assert rows[0][1:] == rows[1][1:]
        assert rows[1].whole
        assert (await input_of(database, job))["prompt"] == "another"

    @pytest.mark.parametrize("given", [None, []])
    async def test_pictures_can_be_left_out(
        self, client: httpx.AsyncClient, database: Database, given: Any
    ) -> None:
        source = await made(client, image_job())
        assert (await replay(client, source, {"input": {"input_images": given}})).status_code == 202
        assert await count(database, "artifacts") == 1

    async def test_pictures_can_be_replaced(self, client: httpx.AsyncClient, database: Database) -> None:
        source = await made(client, image_job(16))
        other = image_job(31)["input"]["input_images"]
        job = (await replay(client, source, {"input": {"input_images": other}})).json()
        async with database.transaction() as db:
            query = text("SELECT width FROM artifacts WHERE job_id = :id")
            assert (await db.execute(query, {"id": UUID(job["id"])})).scalars().all() == [31]

    async def test_pictures_that_were_pruned_are_gone(
        self, client: httpx.AsyncClient, database: Database
    ) -> None:
        source = await made(client, image_job())
        async with database.transaction() as db:
            await db.execute(text("DELETE FROM artifact_bytes"))
        problem(await replay(client, source), 410, "gone")
        assert (await replay(client, source, {"input": {"input_images": None}})).status_code == 202

    async def test_a_key_makes_one_replay(self, client: httpx.AsyncClient, database: Database) -> None:
        source, other = await made(client, image_job()), await made(client)
        key = {"Idempotency-Key": "again"}
        first = await replay(client, source, **key)
        assert first.status_code == 202, first.text
        again = await replay(client, source, {}, **key)
        assert (again.content, again.headers["idempotent-replayed"]) == (first.content, "true")
        problem(await replay(client, source, {"max_attempts": 3}, **key), 422, "idempotency_key_reused")
        problem(await replay(client, other, **key), 422, "idempotency_key_reused")
        assert await count(database) == 3
        async with database.transaction() as db:  # the source may go
            await db.execute(text("DELETE FROM jobs"))
        assert (await replay(client, source, **key)).content == first.content
        problem(await replay(client, source), 404, "job_not_found")

    async def test_another_projects_job_is_not_found(
        self, client: httpx.AsyncClient, database: Database
    ) -> None:
        source = await made(client)
        theirs = bearer(await factories.key(database, project="other"))
        problem(await replay(client, source, **theirs), 404, "job_not_found")
        problem(await client.post("/api/v1/jobs/nonsense/replay"), 404, "job_not_found")
        problem(await client.delete(source["status_url"], headers=theirs), 404, "job_not_found")


class TestDelete:
    @pytest.mark.parametrize("state", sorted(FINAL))
    async def test_all_of_a_final_job_goes(
        self, client: httpx.AsyncClient, database: Database, project_id: UUID, state: State
    ) -> None:
        row = await factories.job(database, project_id, state=state)
        artifact = await factories.artifact(database, row, b"picture")
        kept = await factories.job(database, project_id, state=state)
        url = f"/api/v1/jobs/{row.id}"
        response = await client.delete(url)
        assert (response.status_code, response.content) == (204, b"")
        for table in ("jobs", "attempts", "job_events", "artifacts", "artifact_bytes"):
            column = {"jobs": "id", "artifact_bytes": "artifact_id"}.get(table, "job_id")
            async with database.transaction() as db:
                left = (await db.execute(text(f"SELECT DISTINCT {column} FROM {table}"))).scalars().all()
            assert set(left) <= {kept.id}, table
        problem(await client.get(url), 404, "job_not_found")
        problem(await client.get(f"{url}/result"), 404, "job_not_found")
        problem(await client.get(f"/api/v1/artifacts/{artifact}"), 404, "artifact_not_found")
        problem(await client.delete(url), 404, "job_not_found")
        assert [job["id"] for job in (await client.get("/api/v1/jobs")).json()["items"]] == [str(kept.id)]

    @pytest.mark.parametrize("state", [State.QUEUED, State.RUNNING])
    async def test_what_is_not_final_stays(
        self, client: httpx.AsyncClient, database: Database, project_id: UUID, state: State
    ) -> None:
        row = await factories.job(database, project_id, state=state)
        body = problem(await client.delete(f"/api/v1/jobs/{row.id}"), 409, "job_not_final")
        assert state in body["detail"]
        assert (await client.get(f"/api/v1/jobs/{row.id}")).json()["state"] == state

    async def test_it_needs_the_scope_to_write(self, client: httpx.AsyncClient, database: Database) -> None:
        reader = bearer(await factories.key(database, scopes=["jobs:read"]))
        problem(await client.delete(f"/api/v1/jobs/{uuid7()}", headers=reader), 403, "insufficient_scope")

    async def test_a_key_outlives_its_job(self, client: httpx.AsyncClient, database: Database) -> None:
        """Otherwise a repetition that comes late would make the job a second time."""
        headers = {"Idempotency-Key": "once"}
        first = await client.post("/api/v1/jobs", json=factories.TEXT_JOB, headers=headers)
        url = first.json()["status_url"]
        await client.post(f"{url}/cancel")
        assert (await client.delete(url)).status_code == 204
        again = await client.post("/api/v1/jobs", json=factories.TEXT_JOB, headers=headers)
        assert (again.content, await count(database)) == (first.content, 0)
