"""Batches whose jobs name uploads: looked up together, told apart one by one, and kept from going away."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from sqlalchemy import text

from api.shortcut import Application
from shared.batches.intake import Intake
from shared.db import Database
from shared.uploads import queries as uploads
from tests import factories
from tests.integration.api.conftest import problem
from tests.integration.api.test_outlook import statements
from tests.pictures import picture

JOBS = 2000
BATCHES = "/api/v1/batches"
JSONL = {"Content-Type": "application/jsonl"}
_UPLOADS = text("""
    INSERT INTO uploads (id, project_id, expires_at, completed_at, filename, media_type, byte_size, sha256, width, height)
    SELECT gen_random_uuid(), :project, now() + interval '1 day', now(), NULL, 'image/png', 100,
        sha256(CAST(n AS text)::bytea), 8, 8
    FROM generate_series(1, :rows) AS n RETURNING id
""")


async def known(database: Database, project_id: UUID, count: int) -> list[str]:
    """So many uploads, without their bytes."""
    async with database.transaction() as db:
        found = await db.execute(_UPLOADS, {"project": project_id, "rows": count})
        return [str(row.id) for row in found]


def editing(*images: str | dict[str, str]) -> dict[str, Any]:
    named = [{"upload_id": image} if isinstance(image, str) else image for image in images]
    return {**factories.IMAGE_JOB, "input": {**factories.IMAGE_JOB["input"], "input_images": named}}


def lines(jobs: list[dict[str, Any]]) -> bytes:
    return b"\n".join(json.dumps(job).encode() for job in jobs)


async def counts(database: Database) -> tuple[int, ...]:
    """Rows of batches, jobs and artifacts."""
    async with database.transaction() as db:
        tables = ("batches", "jobs", "artifacts")
        return tuple(
            [(await db.execute(text(f"SELECT count(*) FROM {table}"))).scalar_one() for table in tables]
        )


async def test_thousands_of_jobs_name_uploads_in_a_few_statements(
    client: httpx.AsyncClient,
    app: Application,
    database: Database,
    project_id: UUID,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ids = await known(database, project_id, 50)
    jobs = [editing(ids[n % 50], ids[(n + 7) % 50]) for n in range(JOBS)]
    with statements(app, monkeypatch) as told:
        began = time.perf_counter()
        answer = await client.post(BATCHES, content=lines(jobs), headers=JSONL)
        took = time.perf_counter() - began
    naming = [statement for statement in told if "uploads" in statement]
    print(f"{JOBS:,} jobs in {took:.2f} s, {len(told)} statements, {len(naming)} of them about uploads")

    assert answer.status_code == 202, answer.text
    async with database.transaction() as db:
        found = await db.execute(
            text(
                "SELECT batch_index, array_agg(upload_id::text ORDER BY position) AS ids, min(byte_size) AS size "
                "FROM artifacts JOIN jobs ON jobs.id = job_id WHERE role = 'input' GROUP BY 1 ORDER BY 1"
            )
        )
        kept = [(row.batch_index, row.ids, row.size) for row in found]
    assert kept == [(n, [ids[n % 50], ids[(n + 7) % 50]], 100) for n in range(JOBS)]
    assert len(naming) <= 10, naming
    assert len(told) <= 40


@pytest.mark.parametrize("form", ["lines", "object"])
async def test_what_is_wrong_is_told_of_each_job_in_their_order(
    client: httpx.AsyncClient, database: Database, project_id: UUID, form: str
) -> None:
    [mine] = await known(database, project_id, 1)
    await factories.key(database, project="other")
    [foreign] = await known(database, await factories.project(database, "other"), 1)
    unknown = str(uuid4())
    jobs = [editing(mine) for _ in range(1200)]  # more than are looked up at once
    jobs[3] = editing({"url": "https://10.0.0.1/a.png"}, mine, unknown)
    jobs[5] = {"kind": "nonsense"}  # known to be wrong at once, and told after what is known later
    jobs[1100] = editing(mine, foreign)
    if form == "lines":
        answer = await client.post(BATCHES, content=lines(jobs), headers=JSONL)
    else:
        answer = await client.post(BATCHES, json={"jobs": jobs})
    found = problem(answer, 422, "validation_failed")["errors"]

    told = [(error["index"], error["pointer"].removeprefix(f"/jobs/{error['index']}")) for error in found]
    image = "/input/input_images"
    assert told[:2] == [(3, f"{image}/0/url"), (3, f"{image}/2/upload_id")]
    assert {index for index, _ in told[2:-1]} == {5}
    assert told[-1] == (1100, f"{image}/1/upload_id")
    assert [error.get("line") for error in found] == [
        index + 1 if form == "lines" else None for index, _ in told
    ]
    for error, upload in ((found[1], unknown), (found[-1], foreign)):
        assert error["code"] == "not_found"
        assert error["message"] == (
            f"there is no upload {upload} in this project; it may have expired: upload the file again"
        )
    assert await counts(database) == (0, 0, 0)


async def test_of_many_errors_the_first_fifty_are_told(
    client: httpx.AsyncClient, database: Database, project_id: UUID
) -> None:
    jobs = [editing(str(uuid4())) if n < 30 else {"kind": "nonsense"} for n in range(200)]
    found = problem(await client.post(BATCHES, content=lines(jobs), headers=JSONL), 422, "validation_failed")

    assert len(found["errors"]) == 50
    assert [error["index"] for error in found["errors"]][:30] == list(range(30))
    assert "the first 50 errors" in found["detail"]


async def test_an_upload_that_goes_between_the_look_and_the_write_leaves_no_batch(
    client: httpx.AsyncClient,
    app: Application,
    database: Database,
    project_id: UUID,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stays, goes = await known(database, project_id, 2)
    create = app.services.batches.create

    async def create_late(intake: Intake, *rest: Any) -> Any:
        async with database.transaction() as db:  # the deletion is under way, and the batch waits for its end
            assert await uploads.lock(db, project_id, UUID(goes))
            task = asyncio.create_task(create(intake, *rest))
            await asyncio.sleep(0.3)
            assert not task.done()
            await uploads.delete(db, UUID(goes))
        return await task

    monkeypatch.setattr(app.services.batches, "create", create_late)
    jobs = [editing(stays), editing(stays, goes), editing(stays)]
    found = problem(await client.post(BATCHES, content=lines(jobs), headers=JSONL), 422, "validation_failed")

    [error] = found["errors"]
    assert (error["index"], error["line"], error["code"]) == (1, 2, "not_found")
    assert error["pointer"] == "/input/input_images/1/upload_id"
    assert goes in error["message"]
    assert await counts(database) == (0, 0, 0)


async def test_uploads_that_are_held_are_not_pruned_or_deleted_and_holders_do_not_wait_for_each_other(
    client: httpx.AsyncClient, database: Database, project_id: UUID
) -> None:
    ids = [UUID(name) for name in await known(database, project_id, 3)]
    async with database.transaction() as db:
        await db.execute(text("UPDATE uploads SET expires_at = now() - interval '1 hour'"))
    async with database.transaction() as one, database.transaction() as other:
        assert await uploads.hold(one, project_id, ids[:2]) == set(ids[:2])
        assert await uploads.hold(other, project_id, ids[1::-1]) == set(ids[:2])
        async with database.transaction() as third:
            assert await uploads.prune(third, limit=100) == 1
        deletion = asyncio.create_task(client.delete(f"/api/v1/uploads/{ids[0]}"))
        await asyncio.sleep(0.3)
        assert not deletion.done()
    assert (await deletion).status_code == 204


async def test_uploads_and_pictures_that_come_along_keep_their_places(
    client: httpx.AsyncClient, database: Database, project_id: UUID
) -> None:
    [upload] = await known(database, project_id, 1)
    inline = {"data": base64.b64encode(picture("JPEG")).decode()}
    answer = await client.post(BATCHES, json={"jobs": [editing(inline, upload, inline), editing(upload)]})

    assert answer.status_code == 202, answer.text
    async with database.transaction() as db:
        found = await db.execute(
            text(
                "SELECT batch_index, position, upload_id IS NOT NULL FROM artifacts JOIN jobs ON jobs.id = job_id ORDER BY 1, 2"
            )
        )
        assert list(map(tuple, found)) == [(0, 0, False), (0, 1, True), (0, 2, False), (1, 0, True)]
