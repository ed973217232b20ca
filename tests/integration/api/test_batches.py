"""Batches: many jobs of one request, as one JSON object or as JSONL."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import httpx
import orjson
import pytest
from PIL import Image
from sqlalchemy import text

from api.shortcut import Application
from shared.batches import queries
from shared.batches.schemas import MAX_JOBS
from shared.config import Settings
from shared.db import Database
from shared.jobs import search
from shared.jobs.status import State
from shared.queue import Doorbell
from shared.wakeups import Wakeups
from tests import factories
from tests.integration.api.conftest import problem
from worker.maintenance import Maintenance

JSONL = {"Content-Type": "application/jsonl"}


def prompts(count: int) -> list[dict[str, Any]]:
    return [{"kind": "text.generate", "input": {"prompt": f"Prompt {n}"}} for n in range(count)]


def lines(jobs: list[Any]) -> bytes:
    return b"".join(json.dumps(job).encode() + b"\n" for job in jobs)


async def submit(client: httpx.AsyncClient, count: int = 3, **fields: Any) -> dict[str, Any]:
    response = await client.post("/api/v1/batches", json={"jobs": prompts(count), **fields})
    assert response.status_code == 202, response.text
    return dict(response.json())


async def jobs_of(client: httpx.AsyncClient, batch_id: str, **query: Any) -> list[dict[str, Any]]:
    found = await client.get("/api/v1/jobs", params={"batch": batch_id, "limit": 200, **query})
    assert found.status_code == 200, found.text
    return list(found.json()["items"])


async def everything(database: Database) -> tuple[int, int, int, int]:
    """Rows of batches, jobs, events and labels."""
    async with database.transaction() as db:
        tables = ("batches", "jobs", "job_events", "job_labels")
        counts = [(await db.execute(text(f"SELECT count(*) FROM {table}"))).scalar_one() for table in tables]
    return counts[0], counts[1], counts[2], counts[3]


@pytest.fixture
async def maintenance(database: Database, settings: Settings, wakeups: Wakeups) -> AsyncIterator[Maintenance]:
    doorbell = Doorbell(settings)
    yield Maintenance(database, settings, doorbell, wakeups)
    await doorbell.close()


class TestSubmit:
    async def test_the_jobs_are_jobs_in_the_order_of_the_batch(
        self, client: httpx.AsyncClient, redis_url: str, settings: Settings
    ) -> None:
        response = await client.post("/api/v1/batches", json={"jobs": prompts(3)})
        made = response.json()
        assert response.status_code == 202
        assert response.headers["location"] == made["status_url"] == f"/api/v1/batches/{made['id']}"
        assert (made["state"], made["total"], made["counts"]["queued"]) == ("running", 3, 3)
        items = await jobs_of(client, made["id"])
        assert [job["batch_index"] for job in items] == [2, 1, 0]
        assert {(job["batch_id"], job["priority"], job["state"]) for job in items} == {
            (made["id"], "batch", "queued")
        }
        assert await client.get(made["jobs_url"]) is not None
        doorbell = Doorbell(settings)
        assert await doorbell.depths(["text.batch"]) == {"text.batch": 3}
        await doorbell.close()

    async def test_defaults_are_completed_by_each_job(self, client: httpx.AsyncClient) -> None:
        made = await submit(
            client,
            0,
            defaults={
                "kind": "text.generate",
                "model": "gemini-flash-lite",
                "input": {"system": "Be brief.", "seed": 7},
                "timeout": 9,
            },
            jobs=[
                {"input": {"prompt": "one"}},
                {
                    "input": {"prompt": "two", "seed": None},
                    "model": "gemini-flash",
                    "priority": "interactive",
                },
            ],
            priority="standard",
            tags=["nightly"],
            metadata={"run": "7"},
        )
        second, first = await jobs_of(client, made["id"])
        assert (first["model"], first["priority"], first["timeout"]) == ("gemini-flash-lite", "standard", 9)
        assert (second["model"], second["priority"]) == ("gemini-flash", "interactive")
        assert first["tags"] == made["tags"] == ["nightly"]
        assert first["metadata"] == made["metadata"] == {"run": "7"}
        assert await jobs_of(client, made["id"], tag="nightly", q="two") == [second]

    async def test_jsonl_makes_the_same_jobs(self, client: httpx.AsyncClient) -> None:
        job = {**prompts(1)[0], "tags": ["own"], "metadata": {"run": "mine"}}
        body = lines([job]) + b"\n  \r\n" + json.dumps(prompts(2)[1]).encode()
        response = await client.post(
            "/api/v1/batches?tag=a&tag=b&metadata=run%3D7&metadata=x%3D%3D&priority=standard",
            content=body,
            headers=JSONL,
        )
        assert response.status_code == 202, response.text
        second, first = await jobs_of(client, response.json()["id"])
        assert (first["tags"], first["metadata"]) == (["own", "a", "b"], {"run": "mine", "x": "="})
        assert (second["tags"], second["metadata"]) == (["a", "b"], {"run": "7", "x": "="})
        assert (first["priority"], second["batch_index"]) == ("standard", 1)

    async def test_pictures_come_along(self, client: httpx.AsyncClient, database: Database) -> None:
        data = io.BytesIO()
        Image.effect_noise((400, 400), 100).save(data, "PNG")
        picture = {"data": base64.b64encode(data.getvalue()).decode()}
        job = {**factories.IMAGE_JOB, "input": {"prompt": "Edit it", "input_images": [picture]}}
        await submit(client, 0, jobs=[*prompts(1), job])
        async with database.transaction() as db:
            [row] = await db.execute(
                text("SELECT batch_index, byte_size FROM artifacts JOIN jobs ON jobs.id = job_id")
            )
        assert (row.batch_index, row.byte_size) == (1, len(data.getvalue()))

    async def test_a_job_for_later_is_not_published(self, client: httpx.AsyncClient) -> None:
        later = {**prompts(1)[0], "scheduled_at": "2199-01-01T00:00:00Z"}
        made = await submit(client, 0, jobs=[*prompts(1), later])
        reasons = [job["waiting_reason"] for job in await jobs_of(client, made["id"])]
        assert reasons == ["scheduled", "no_workers"]

    async def test_without_redis_it_is_stored_and_published_later(
        self, client: httpx.AsyncClient, database: Database, valkey: Any
    ) -> None:
        valkey.kill()
        made = await submit(client, 30)
        async with database.transaction() as db:
            unpublished = await db.execute(
                text("SELECT count(*) FROM jobs WHERE batch_id = :id AND published_at IS NULL"),
                {"id": made["id"]},
            )
        assert unpublished.scalar_one() == 30


class TestRefusals:
    async def test_all_errors_are_named_and_nothing_is_stored(
        self, client: httpx.AsyncClient, database: Database
    ) -> None:
        good, [_, second] = prompts(1)[0], prompts(2)
        jobs = [
            good,
            {**good, "kind": "video.generate"},
            {**second, "input": {"prompt": 7, "nonsense": 1}},
            "a string",
            {**good, "timeout": 0},
            {**good, "tags": [f"t{n}" for n in range(16)]},
        ]
        found = problem(
            await client.post("/api/v1/batches", json={"jobs": jobs, "tags": ["mine"]}),
            422,
            "validation_failed",
        )
        assert [(error["pointer"], error["index"]) for error in found["errors"]] == [
            ("/jobs/1/kind", 1),
            ("/jobs/2/input/prompt", 2),
            ("/jobs/2/input/nonsense", 2),
            ("/jobs/3", 3),
            ("/jobs/4/timeout", 4),
            ("/jobs/5/tags", 5),
        ]
        assert "text.generate" in found["errors"][0]["allowed"]
        assert await everything(database) == (0, 0, 0, 0)

    async def test_lines_are_named(self, client: httpx.AsyncClient, database: Database) -> None:
        body = lines(prompts(2)) + b'\n{"kind": \n[1]\n' + lines([{"kind": "text.generate", "input": {}}])
        found = problem(
            await client.post("/api/v1/batches", content=body, headers=JSONL), 422, "validation_failed"
        )
        assert [(error["line"], error["index"], error["pointer"]) for error in found["errors"]] == [
            (4, 2, ""),
            (5, 3, ""),
            (6, 4, "/input"),
        ]
        assert "at column 9" in found["errors"][0]["message"]
        assert await everything(database) == (0, 0, 0, 0)

    async def test_of_thousands_of_errors_the_first_are_told(self, client: httpx.AsyncClient) -> None:
        answer = await client.post("/api/v1/batches", json={"jobs": [{}] * 9000})
        found = problem(answer, 422, "validation_failed")
        assert len(found["errors"]) == 50
        assert "(the first 50 errors)" in found["detail"]

    @pytest.mark.parametrize(
        ("body", "pointer"),
        [
            (b"[]", ""),
            (b"{}", "/jobs"),
            (b'{"jobs": []}', "/jobs"),
            (b'{"jobs": {}}', "/jobs"),
            (b'{"jobs": [{}], "priority": "high"}', "/priority"),
            (b'{"jobs": [{}], "tags": [{"a": 1}]}', "/tags/0"),
            (b'{"jobs": [{}], "defaults": {"modle": "x"}}', "/defaults"),
            (b'{"jobs": [{}], "more": [{}]}', "/more"),
        ],
    )
    async def test_what_is_no_batch_is_named(
        self, client: httpx.AsyncClient, body: bytes, pointer: str
    ) -> None:
        answer = await client.post(
            "/api/v1/batches", content=body, headers={"Content-Type": "application/json"}
        )
        assert problem(answer, 422, "validation_failed")["errors"][0]["pointer"] == pointer

    @pytest.mark.parametrize(
        "body",
        [
            b'{"jobs": [{}, \n {"a": "\xc3\xa9", 5}]}',
            b'{"jobs": [{"a": 1}, \n {"b": 2}], }',
            b'{"jobs": [{"a": 1}, \n {"b": 2},, {"c": 3}]}',
            b'{"jobs": [{}, {"a": "',
            b'{"jobs": [{"a": 1]]}',
            b"]]]}}}{[[",
            b'{"a": [{"b": "\\',
        ],
    )
    async def test_what_is_no_json_is_told_where_as_if_it_had_not_been_cut_up(
        self, client: httpx.AsyncClient, body: bytes
    ) -> None:
        answer = await client.post(
            "/api/v1/batches", content=body, headers={"Content-Type": "application/json"}
        )
        with pytest.raises(orjson.JSONDecodeError) as told:
            orjson.loads(body)
        where = f"at line {told.value.lineno}, column {told.value.colno}."
        assert where in problem(answer, 400, "invalid_json")["detail"]

    async def test_limits_are_told(self, client: httpx.AsyncClient, settings: Settings) -> None:
        jobs: list[Any] = [{}] * (MAX_JOBS + 1)
        problem(await client.post("/api/v1/batches", json={"jobs": jobs}), 413, "too_many_jobs")
        problem(
            await client.post("/api/v1/batches", content=lines(jobs), headers=JSONL), 413, "too_many_jobs"
        )
        large = b" " * (settings.max_body_bytes + 1)
        for kind in ("application/json", "application/x-ndjson"):
            answer = await client.post("/api/v1/batches", content=large, headers={"Content-Type": kind})
            assert f"{settings.max_body_bytes:,} bytes" in problem(answer, 413, "payload_too_large")["detail"]

        async def unannounced() -> AsyncIterator[bytes]:
            for _ in range(31):
                yield b" " * 1_000_000

        answer = await client.post("/api/v1/batches", content=unannounced(), headers=JSONL)
        problem(answer, 413, "payload_too_large")
        answer = await client.post("/api/v1/batches", content=b"{}", headers={"Content-Type": "text/csv"})
        problem(answer, 415, "unsupported_media_type")
        answer = await client.post("/api/v1/batches?tag=a", json={"jobs": prompts(1)})
        assert problem(answer, 422, "validation_failed")["errors"][0]["pointer"] == "?tag"
        answer = await client.post("/api/v1/batches?tag=a%20b", content=lines(prompts(1)), headers=JSONL)
        assert problem(answer, 422, "validation_failed")["errors"][0]["pointer"] == "?tag"


class TestTwice:
    async def test_a_key_makes_one_batch(self, client: httpx.AsyncClient, database: Database) -> None:
        key = {"Idempotency-Key": "nightly"}
        body = {"jobs": prompts(5), "tags": ["a"]}
        first = await client.post("/api/v1/batches", json=body, headers=key)
        assert first.status_code == 202, first.text
        spaced = json.dumps({"tags": ["a"], "jobs": prompts(5)}, indent=3).encode()
        again = await client.post(
            "/api/v1/batches", content=spaced, headers={**key, "Content-Type": "application/json"}
        )
        assert again.headers["idempotent-replayed"] == "true"
        assert (again.status_code, again.content) == (202, first.content)
        assert again.headers["location"] == first.headers["location"]
        for other in ({"jobs": prompts(6), "tags": ["a"]}, {"jobs": prompts(5)}, {"jobs": [1]}):
            problem(
                await client.post("/api/v1/batches", json=other, headers=key), 422, "idempotency_key_reused"
            )
        assert (await everything(database))[:2] == (1, 5)

    async def test_two_at_once_make_one(self, client: httpx.AsyncClient, database: Database) -> None:
        headers = {"Idempotency-Key": "k", **JSONL}
        content = lines(prompts(500))
        answers = await asyncio.gather(
            *(client.post("/api/v1/batches", content=content, headers=headers) for _ in range(3))
        )
        assert sorted({answer.status_code for answer in answers}) in ([202], [202, 409])
        assert (await everything(database))[:2] == (1, 500)

    async def test_what_is_refused_leaves_the_key_free(self, client: httpx.AsyncClient) -> None:
        key = {"Idempotency-Key": "k"}
        problem(
            await client.post("/api/v1/batches", json={"jobs": [{}]}, headers=key), 422, "validation_failed"
        )
        made = await client.post("/api/v1/batches", json={"jobs": prompts(1)}, headers=key)
        assert made.status_code == 202


async def end(database: Database, batch_id: str, *states: State) -> None:
    """Leads the batch's first jobs to these states."""
    async with database.transaction() as db:
        rows = (
            await db.execute(
                text("SELECT id FROM jobs WHERE batch_id = :id AND state = 'queued' ORDER BY id"),
                {"id": batch_id},
            )
        ).all()
    for row, state in zip(rows, states, strict=False):
        await factories.claim(database, row.id)
        if state is not State.RUNNING:
            await factories.finish(database, row.id, state=state)


class TestProgress:
    async def test_a_batch_is_counted_and_completed(
        self, client: httpx.AsyncClient, database: Database, maintenance: Maintenance
    ) -> None:
        made = await submit(client)
        url = made["status_url"]
        await end(database, made["id"], State.SUCCEEDED, State.FAILED)
        await maintenance.tend_batches()
        seen = await client.get(url)
        assert seen.headers["retry-after"] == "1"
        assert seen.json()["counts"] == {
            "queued": 1, "running": 0, "succeeded": 1, "failed": 1, "cancelled": 0, "expired": 0,
        }  # fmt: skip
        assert (seen.json()["state"], seen.json()["cost_usd"]) == ("running", "0.000162")
        same = await client.get(url, headers={"If-None-Match": seen.headers["etag"]})
        assert (same.status_code, same.content) == (304, b"")
        await end(database, made["id"], State.SUCCEEDED)
        await maintenance.tend_batches()
        done = (await client.get(url)).json()
        assert (done["state"], done["counts"]["succeeded"], done["cost_usd"]) == ("completed", 2, "0.000243")
        assert done["completed_at"] is not None
        assert "retry-after" not in (await client.get(url)).headers
        # What is deleted afterwards is still counted; once nothing is left of it, it goes itself, in good time.
        for job in await jobs_of(client, made["id"]):
            assert (await client.delete(job["status_url"])).status_code == 204
        assert (await client.get(url)).json() == done
        await maintenance.forget_batches()
        assert (await client.get(url)).status_code == 200
        async with database.transaction() as db:
            await db.execute(text("UPDATE batches SET completed_at = completed_at - interval '8 days'"))
        await maintenance.forget_batches()
        problem(await client.get(url), 404, "batch_not_found")
        assert await everything(database) == (0, 0, 0, 0)

    async def test_many_who_ask_share_one_count(
        self, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        counted = 0
        count = queries.count

        async def counting(db: Any, batch_id: UUID) -> Any:
            nonlocal counted
            counted += 1
            return await count(db, batch_id)

        monkeypatch.setattr(queries, "count", counting)
        made = await submit(client)
        await asyncio.gather(*(client.get(made["status_url"]) for _ in range(20)))
        assert counted == 1

    async def test_its_end_is_an_event_of_the_project(
        self, client: httpx.AsyncClient, database: Database, maintenance: Maintenance, project_id: UUID
    ) -> None:
        made = await submit(client, 2)
        await end(database, made["id"], State.SUCCEEDED, State.SUCCEEDED)
        for _ in range(2):
            await maintenance.tend_batches()
        async with database.transaction() as db:
            events = list(
                await db.execute(
                    text("SELECT id, type, batch_id, data FROM job_events WHERE job_id IS NULL ORDER BY id")
                )
            )
            last = (await db.execute(text("SELECT max(id) FROM job_events"))).scalar_one()
        assert [event.type for event in events] == ["batch.created", "batch.completed"]
        assert (str(events[1].batch_id), events[1].id) == (made["id"], last)
        assert events[1].data == {
            "batch_id": made["id"],
            "total": 2,
            "counts": {"succeeded": 2},
            "cost_usd": "0.000162",
            "cancel_requested": False,
        }

    async def test_batches_are_listed(
        self, client: httpx.AsyncClient, database: Database, maintenance: Maintenance
    ) -> None:
        first, second, third = [await submit(client, 1) for _ in range(3)]
        await end(database, second["id"], State.FAILED)
        await maintenance.tend_batches()
        page = (await client.get("/api/v1/batches?limit=2")).json()
        assert [(batch["id"], batch["state"]) for batch in page["items"]] == [
            (third["id"], "running"),
            (second["id"], "completed"),
        ]
        assert page["items"][0]["counts"] is None
        assert page["items"][1]["counts"]["failed"] == 1
        rest = (await client.get("/api/v1/batches", params={"cursor": page["next_cursor"]})).json()
        assert ([batch["id"] for batch in rest["items"]], rest["next_cursor"]) == ([first["id"]], None)
        done = (await client.get("/api/v1/batches?state=completed")).json()["items"]
        assert [batch["id"] for batch in done] == [second["id"]]
        problem(await client.get("/api/v1/batches?cursor=x"), 400, "invalid_cursor")

    async def test_another_projects_batch_looks_like_none(
        self, client: httpx.AsyncClient, database: Database
    ) -> None:
        made = await submit(client)
        other = {"Authorization": f"Bearer {await factories.key(database, project='others')}"}
        for batch_id in (made["id"], str(uuid4()), "7"):
            for path in ("", "/results", "/events"):
                answer = await client.get(f"/api/v1/batches/{batch_id}{path}", headers=other)
                problem(answer, 404, "batch_not_found")
            answer = await client.post(f"/api/v1/batches/{batch_id}/cancel", headers=other)
            problem(answer, 404, "batch_not_found")
        assert (await client.get("/api/v1/batches", headers=other)).json()["items"] == []
        listed = await client.get("/api/v1/jobs", params={"batch": made["id"]}, headers=other)
        assert listed.json()["items"] == []

    async def test_its_jobs_are_found_page_by_page(self, client: httpx.AsyncClient) -> None:
        made, _ = await submit(client, 7), await submit(client, 2)
        seen: list[int] = []
        cursor = None
        while True:
            query = {"batch": made["id"], "limit": 3} | ({"cursor": cursor} if cursor else {})
            page = (await client.get("/api/v1/jobs", params=query)).json()
            seen += [job["batch_index"] for job in page["items"]]
            if (cursor := page["next_cursor"]) is None:
                break
        assert seen == [6, 5, 4, 3, 2, 1, 0]
        summary = (await client.get("/api/v1/jobs/summary", params={"batch": made["id"]})).json()
        assert (summary["states"]["queued"], summary["queues"][0]["queued"]) == (7, 7)

    async def test_the_summary_counts_it_alone(self, client: httpx.AsyncClient, database: Database) -> None:
        made, _ = await submit(client, 6), await submit(client, 2)
        await end(database, made["id"], State.SUCCEEDED, State.SUCCEEDED, State.FAILED, State.RUNNING)
        other = {"Authorization": f"Bearer {await factories.key(database, project='others')}"}

        async def summary(headers: dict[str, str] | None = None, **window: str) -> dict[str, Any]:
            query = {"batch": made["id"], **window}
            found: dict[str, Any] = (
                await client.get("/api/v1/jobs/summary", params=query, headers=headers)
            ).json()
            return found

        def states(found: dict[str, Any]) -> dict[str, int]:
            return {state: jobs for state, jobs in found["states"].items() if jobs}

        found = await summary()
        assert states(found) == {"succeeded": 2, "failed": 1, "running": 1, "queued": 2}
        (queue,) = found["queues"]
        assert (queue["queued"], queue["running"]) == (2, 1)
        assert queue["oldest_waiting_seconds"] >= 0
        (model,) = found["models"]
        assert model["states"] == states(found)
        total = Decimal(found["cost_usd"]["total"])
        assert Decimal(model["cost_usd"]) == total == Decimal(found["cost_usd"]["today"]) > 0
        past = await summary(finished_before="2020-01-01T00:00:00Z")
        assert states(past) == {"running": 1, "queued": 2}
        async with database.transaction() as db:
            await db.execute(
                text("UPDATE jobs SET finished_at = now() - interval '1 day' WHERE finished_at IS NOT NULL")
            )
        found = await summary()
        assert Decimal(found["cost_usd"]["total"]) == total > Decimal(found["cost_usd"]["today"])
        assert states(await summary(other)) == {}


class TestResults:
    async def test_a_line_for_each_job_in_order(self, client: httpx.AsyncClient, database: Database) -> None:
        made = await submit(client, 5, metadata={"run": "7"})
        await end(database, made["id"], State.SUCCEEDED, State.FAILED, State.RUNNING)
        answer = await client.get(made["results_url"])
        assert answer.headers["content-type"] == "application/jsonl"
        found = [json.loads(line) for line in answer.text.splitlines()]
        assert [(line["index"], line["state"]) for line in found] == [
            (0, "succeeded"), (1, "failed"), (2, "running"), (3, "queued"), (4, "queued"),
        ]  # fmt: skip
        assert found[0]["output"]["text"] == "green and yellow"
        assert (found[1]["output"], found[1]["error"]["code"]) == (None, "invalid_request")
        assert found[4]["metadata"] == {"run": "7"}
        rest = await client.get(made["results_url"], params={"after": 2})
        assert rest.text.splitlines() == answer.text.splitlines()[3:]
        assert (await client.get(made["results_url"], params={"after": 9})).text == ""
        assert (await client.head(made["results_url"])).status_code == 200

    async def test_large_results_come_in_pages_of_bounded_size(
        self, client: httpx.AsyncClient, database: Database
    ) -> None:
        made = await submit(client, 450)
        async with database.transaction() as db:
            await db.execute(
                text("""
                    UPDATE jobs SET state = 'succeeded', finished_at = now(), published_at = NULL,
                        result = jsonb_build_object('text', made.text)
                    FROM (SELECT j.id, string_agg(md5(j.id::text || n), '') AS text
                          FROM jobs j, generate_series(1, 300) AS n WHERE j.batch_id = :id GROUP BY j.id) AS made
                    WHERE jobs.id = made.id
                """),
                {"id": made["id"]},
            )
        sizes, whole = [], b""
        async with client.stream("GET", made["results_url"]) as answer:
            async for piece in answer.aiter_raw():
                sizes.append(len(piece))
                whole += piece
        assert [json.loads(line)["index"] for line in whole.splitlines()] == list(range(450))
        async with database.reading() as db:
            page = await queries.results(db, UUID(made["id"]), after=UUID(int=0))
        assert 10 < len(page) < 100


class TestCancel:
    async def test_what_is_left_is_cancelled(
        self, client: httpx.AsyncClient, database: Database, maintenance: Maintenance
    ) -> None:
        made, other = await submit(client, 450), await submit(client, 1)
        await end(database, made["id"], State.SUCCEEDED, State.RUNNING)
        done = (await client.post(made["cancel_url"])).json()
        assert (done["cancelled"], done["cancel_requested"], done["more"]) == (448, 1, False)
        counts = done["batch"]["counts"]
        assert (counts["cancelled"], counts["running"], counts["succeeded"]) == (448, 1, 1)
        assert done["batch"]["cancel_requested_at"] is not None
        again = (await client.post(made["cancel_url"])).json()
        assert (again["cancelled"], again["cancel_requested"]) == (0, 0)
        assert len(await jobs_of(client, other["id"], state="queued")) == 1

    async def test_beat_goes_on_where_a_request_ended(
        self, client: httpx.AsyncClient, database: Database, maintenance: Maintenance, project_id: UUID
    ) -> None:
        made = await submit(client, 250)
        async with database.transaction() as db:  # as a process that died right after
            await queries.request_cancel(db, project_id, UUID(made["id"]))
        await maintenance.tend_batches()
        done = (await client.get(made["status_url"])).json()
        assert (done["state"], done["counts"]["cancelled"]) == ("completed", 250)
        late = (await client.post(made["cancel_url"])).json()
        assert (late["cancelled"], late["batch"]) == (0, done)

    async def test_a_job_that_somebody_has_locked_keeps_no_other_from_its_end(
        self, client: httpx.AsyncClient, database: Database, maintenance: Maintenance
    ) -> None:
        ended, made = await submit(client, 1), await submit(client, 250)
        await end(database, ended["id"], State.SUCCEEDED)
        async with database.transaction() as db:
            locked = "SELECT id FROM jobs WHERE batch_id = :id ORDER BY id LIMIT 1 FOR UPDATE"
            await db.execute(text(locked), {"id": made["id"]})
            done = await client.post(made["cancel_url"])
            assert done.status_code == 200, done.text
            assert (done.json()["cancelled"], done.json()["more"]) == (249, True)
            await maintenance.tend_batches()
            assert (await client.get(ended["status_url"])).json()["state"] == "completed"
        await maintenance.tend_batches()
        assert (await client.get(made["status_url"])).json()["state"] == "completed"

    async def test_the_filter_of_the_cancel_of_many_knows_batches(self, client: httpx.AsyncClient) -> None:
        made, other = await submit(client, 2), await submit(client, 1)
        answer = await client.post("/api/v1/jobs/cancel", json={"filter": {"batch": made["id"]}})
        assert answer.json()["cancelled"] == 2
        assert len(await jobs_of(client, other["id"], state="queued")) == 1


class TestReplay:
    """POST /jobs/replay."""

    async def replay(self, client: httpx.AsyncClient, status: int, **body: Any) -> dict[str, Any]:
        answer = await client.post("/api/v1/jobs/replay", json=body)
        assert answer.status_code == status, answer.text
        return dict(answer.json())

    async def test_those_that_failed_are_made_again_as_a_batch(
        self, client: httpx.AsyncClient, database: Database
    ) -> None:
        made = await submit(client, 6)
        await end(database, made["id"], *[State.FAILED] * 4, State.SUCCEEDED)
        wanted = {"filter": {"batch": made["id"], "state": ["failed", "queued"]}}
        counted = await self.replay(client, 200, **wanted, dry_run=True)
        assert (counted["matched"], counted["skipped"], counted["batch"]) == (4, 0, None)
        assert [job["batch_index"] for job in counted["sample"]] == [3, 2, 1, 0]
        assert (await everything(database))[:2] == (1, 6)
        first = await self.replay(client, 202, **wanted, limit=3, changes={"priority": "standard"})
        rest = await self.replay(client, 202, **wanted, limit=3, cursor=first["next_cursor"])
        assert (first["matched"], rest["matched"], rest["next_cursor"]) == (3, 1, None)
        again = await jobs_of(client, first["batch"]["id"]) + await jobs_of(client, rest["batch"]["id"])
        failed = {job["id"] for job in await jobs_of(client, made["id"], state="failed")}
        assert {job["replay_of"] for job in again} == failed
        assert sorted(job["priority"] for job in again) == ["batch"] + ["standard"] * 3
        assert again[0]["state"] == "queued"

    async def test_what_cannot_be_made_again_is_skipped_and_named(
        self, client: httpx.AsyncClient, database: Database, project_id: UUID
    ) -> None:
        good = await factories.job(database, project_id, state=State.FAILED, tags=["a"])
        gone = await factories.job(database, project_id, state=State.FAILED, tags=["a"], model="retired")
        found = await self.replay(client, 202, filter={"tag": ["a"]})
        assert (found["matched"], found["skipped"], found["batch"]["total"]) == (2, 1, 1)
        assert (found["problems"][0]["job_id"], found["problems"][0]["code"]) == (str(gone.id), "not_allowed")
        [again] = await jobs_of(client, found["batch"]["id"])
        assert again["replay_of"] == str(good.id)
        answer = await client.post(
            "/api/v1/jobs/replay", json={"filter": {"tag": ["a"]}, "changes": {"kind": "image.generate"}}
        )
        assert problem(answer, 422, "validation_failed")["errors"][0]["pointer"] == "/kind"

    async def test_pictures_come_along_and_bound_what_one_request_takes(
        self, client: httpx.AsyncClient, database: Database, app: Application, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        data = io.BytesIO()
        Image.effect_noise((200, 200), 100).save(data, "PNG")
        picture = {"data": base64.b64encode(data.getvalue()).decode()}
        job = {**factories.IMAGE_JOB, "input": {"prompt": "Edit it", "input_images": [picture]}}
        made = await submit(client, 0, jobs=[job] * 3)
        await end(database, made["id"], *[State.FAILED] * 3)
        monkeypatch.setattr(app.services.replays, "_most_bytes", 2 * len(data.getvalue()) + 5000)
        found = await self.replay(client, 202, filter={"state": ["failed"]})
        assert (found["batch"]["total"], found["next_cursor"] is not None) == (2, True)
        rest = await self.replay(client, 202, filter={"state": ["failed"]}, cursor=found["next_cursor"])
        assert (rest["batch"]["total"], rest["next_cursor"]) == (1, None)
        async with database.transaction() as db:
            [row] = await db.execute(
                text(
                    "SELECT count(DISTINCT job_id) AS jobs, count(DISTINCT sha256) AS pictures FROM artifacts"
                )
            )
        assert (row.jobs, row.pictures) == (6, 1)

    async def test_pictures_that_are_only_named_are_named_again(
        self, client: httpx.AsyncClient, database: Database
    ) -> None:
        data = io.BytesIO()
        Image.new("RGB", (9, 9)).save(data, "PNG")
        upload = (await client.post("/api/v1/uploads", files={"file": data.getvalue()})).json()["id"]
        pictures = [{"url": "https://example.com/a.png"}, {"upload_id": upload}]
        job = {**factories.IMAGE_JOB, "input": {"prompt": "Edit it", "input_images": pictures}}
        made = await submit(client, 0, jobs=[job])
        await end(database, made["id"], State.FAILED)
        await self.replay(client, 202, filter={"state": ["failed"]})
        async with database.transaction() as db:
            found = await db.execute(
                text(
                    "SELECT input, position, upload_id::text FROM jobs "
                    "JOIN artifacts ON job_id = jobs.id AND role = 'input'"
                )
            )
            first, again = found.all()
        assert first == again
        assert (again.position, again.upload_id) == (1, upload)

    async def test_under_a_key_it_happens_once(self, client: httpx.AsyncClient, database: Database) -> None:
        made = await submit(client, 3)
        await end(database, made["id"], *[State.FAILED] * 3)
        body, headers = {"filter": {"state": ["failed"]}}, {"Idempotency-Key": "again"}
        first = await client.post("/api/v1/jobs/replay", json=body, headers=headers)
        second = await client.post("/api/v1/jobs/replay", json=body, headers=headers)
        assert first.headers["location"] == first.json()["batch"]["status_url"]
        assert (second.content, second.headers["idempotent-replayed"]) == (first.content, "true")
        assert (await everything(database))[:2] == (2, 6)

    @pytest.mark.parametrize(
        "body",
        [
            {},
            {"filter": {}},
            {"filter": {"state": ["failed"]}, "limit": 10_001},
            {"filter": {"kind": "video"}},
            {"filter": {"state": ["failed"]}, "chnages": {}},
        ],
    )
    async def test_without_a_clear_filter_it_is_refused(
        self, client: httpx.AsyncClient, body: dict[str, Any]
    ) -> None:
        assert (await client.post("/api/v1/jobs/replay", json=body)).status_code == 422

    async def test_ten_thousand_at_once(self, client: httpx.AsyncClient, database: Database) -> None:
        made = await submit(client, MAX_JOBS)
        async with database.transaction() as db:
            await db.execute(
                text(
                    "UPDATE jobs SET state = 'failed', finished_at = now(), published_at = NULL, error = '{}' "
                    "WHERE batch_id = :id"
                ),
                {"id": made["id"]},
            )
            await db.execute(text("ANALYZE jobs"))
        seen, cursor = 0, None
        while seen < MAX_JOBS:
            more: dict[str, Any] = {"cursor": cursor} if cursor else {}
            found = await self.replay(client, 202, filter={"batch": made["id"]}, limit=MAX_JOBS, **more)
            seen, cursor = seen + found["batch"]["total"], found["next_cursor"]
        assert (await everything(database))[1] == 2 * MAX_JOBS


async def test_each_statement_finds_its_jobs_by_the_batchs_own_indexes(
    client: httpx.AsyncClient, database: Database, project_id: UUID
) -> None:
    """Where a third of all jobs are of one batch, the planner takes any other way for as good."""
    made = [await submit(client, 2000) for _ in range(3)]
    batch_id, least = made[0]["id"], str(UUID(int=0))
    wanted = {"project_id": str(project_id), "batch": batch_id, "below": str(UUID(int=2**128 - 1))}
    window = {"until": "infinity", "until_id": least, "since": "-infinity"}
    statements: list[tuple[str, dict[str, Any]]] = [
        (str(queries._RESULTS), {"id": batch_id, "after": least, "jobs": 200, "bytes": 1000}),
        (str(queries._TO_CANCEL), {"id": batch_id, "limit": 200}),
        (str(queries._COMPLETE), {"limit": 20}),
        (str(queries._PRUNE), {"after": 0, "limit": 20}),
        (f"{search._of_batch().select} LIMIT 200", {**wanted, **window}),
    ]
    async with database.transaction() as db:
        await db.execute(text("ANALYZE jobs"))
    for statement, parameters in statements:
        async with database.transaction() as db:
            lines = [row[0] for row in await db.execute(text(f"EXPLAIN {statement}"), parameters)]
        scans = [line for line in lines if " on jobs" in line or "ix_jobs" in line]
        limited = lines[next(n for n, line in enumerate(lines) if "Limit" in line) :]
        assert any("using ix_jobs_batch" in line for line in limited), "\n".join(lines)
        assert not [line for line in scans if "Seq Scan" in line or "pk_jobs" in line], "\n".join(lines)
