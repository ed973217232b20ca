"""Uploads over HTTP, with the real database behind them."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from hashlib import sha256
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from sqlalchemy import text

from api import body
from api.deps import READ
from api.shortcut import Application
from shared import storage
from shared.db import Database
from shared.errors import ValidationFailed
from shared.jobs.schemas import JobSubmit
from tests import factories
from tests.integration.api.conftest import bearer, problem
from tests.pictures import animated, bomb, picture, with_metadata

URL = "/api/v1/uploads"
DATA = picture("PNG", (500, 450))  # more than one slice


async def send(
    client: httpx.AsyncClient, data: bytes = DATA, name: str = "a.png", **fields: str
) -> httpx.Response:
    return await client.post(URL, files={"file": (name, data, "text/html")}, data=fields)


async def rows(database: Database, table: str) -> int:
    async with database.transaction() as db:
        return int((await db.execute(text(f"SELECT count(*) FROM {table}"))).scalar_one())


async def test_a_picture_goes_in_and_comes_out(client: httpx.AsyncClient, database: Database) -> None:
    assert len(DATA) > storage.SLICE_BYTES
    response = await send(client, name="holiday.html", sha256=sha256(DATA).hexdigest().upper())
    made = response.json()

    assert response.status_code == 201
    assert response.headers["location"] == made["url"] == f"{URL}/{made['id']}"
    assert made["media_type"] == "image/png"  # whatever it was declared as
    assert (made["filename"], made["byte_size"]) == ("holiday.html", len(DATA))
    assert (made["width"], made["height"]) == (500, 450)
    assert made["sha256"] == sha256(DATA).hexdigest()
    assert (await client.get(made["url"])).json() == made
    whole = await client.get(made["content_url"])
    assert (whole.content, whole.headers["content-type"]) == (DATA, "image/png")
    assert await rows(database, "upload_chunks") == -(-len(DATA) // storage.SLICE_BYTES)
    at = storage.SLICE_BYTES
    part = await client.get(made["content_url"], headers={"Range": f"bytes={at - 10}-{at + 9}"})
    assert (part.status_code, part.content) == (206, DATA[at - 10 : at + 10])
    known = await client.get(made["content_url"], headers={"If-None-Match": whole.headers["etag"]})
    assert known.status_code == 304


async def test_the_same_content_is_stored_once_for_each_project(
    client: httpx.AsyncClient, anonymous: httpx.AsyncClient, database: Database
) -> None:
    first = await send(client)
    again = await send(client, name="b.png")
    async with database.transaction() as db:
        await db.execute(text("UPDATE uploads SET expires_at = now() + interval '1 minute'"))
    later = await send(client)
    other = await anonymous.post(
        URL, files={"file": DATA}, headers=bearer(await factories.key(database, project="other"))
    )

    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json()["id"] == first.json()["id"]
    assert later.json()["expires_at"] >= first.json()["expires_at"]  # giving it again keeps it
    assert other.status_code == 201
    assert other.json()["id"] != first.json()["id"]
    assert await rows(database, "uploads") == 2


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
async def test_a_picture_with_more_metadata_than_a_slice_in_front_is_taken(
    client: httpx.AsyncClient, form: str
) -> None:
    data = with_metadata(picture(form), 700_000)
    made = await send(client, data)

    assert (made.status_code, made.json()["media_type"]) == (201, f"image/{form.lower()}")
    assert (await client.get(made.json()["content_url"])).content == data


async def test_many_at_once_with_the_same_content_are_one(
    client: httpx.AsyncClient, database: Database
) -> None:
    answers = await asyncio.gather(*(send(client) for _ in range(8)))

    assert sorted(answer.status_code for answer in answers) == [200] * 7 + [201]
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert await rows(database, "uploads") == 1


@pytest.mark.parametrize(
    ("data", "status", "code", "words"),
    [
        (b"<html></html>", 415, "unsupported_image_type", "image/png"),
        (b"%PDF-1.7" + bytes(1000), 415, "unsupported_image_type", "send one of"),
        (picture("GIF"), 415, "unsupported_image_type", "is image/gif"),
        (b"", 422, "validation_failed", "empty"),
        (DATA[:-100], 422, "validation_failed", "cut off"),
        (bomb(), 422, "validation_failed", "million"),
        (animated("PNG"), 422, "validation_failed", "animated"),
    ],
)
async def test_what_is_no_usable_picture_is_refused_and_leaves_nothing(
    client: httpx.AsyncClient, database: Database, data: bytes, status: int, code: str, words: str
) -> None:
    found = problem(await send(client, data), status, code)

    assert words in found["detail"]
    assert await rows(database, "uploads") == 0
    assert await rows(database, "upload_chunks") == 0


async def test_another_checksum_is_an_error_that_names_the_right_one(
    client: httpx.AsyncClient, database: Database
) -> None:
    found = problem(await send(client, sha256="0" * 64), 422, "validation_failed")

    assert [(error["pointer"], error["code"]) for error in found["errors"]] == [
        ("/sha256", "checksum_mismatch")
    ]
    assert sha256(DATA).hexdigest() in found["detail"]
    assert await rows(database, "uploads") == 0
    problem(await send(client, sha256="xyz"), 422, "validation_failed")


async def test_forms_that_are_wrong_are_told_what_is(client: httpx.AsyncClient, database: Database) -> None:
    for answer, pointer in (
        (await client.post(URL, files={"picture": DATA}), "/picture"),
        (await client.post(URL, files={"sha256": (None, "0" * 64)}), "/file"),
        (await client.post(URL, files=[("file", DATA), ("file", DATA)]), "/file"),
        (await client.post(URL, files={"sha256": (None, "0" * 100_000), "file": DATA}), "/sha256"),
    ):
        assert problem(answer, 422, "validation_failed")["errors"][0]["pointer"] == pointer
    problem(await client.post(URL, json={"file": "x"}), 415, "not_a_form")
    problem(await client.post(URL, content=DATA, headers={"Content-Type": "image/png"}), 415, "not_a_form")
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    problem(await client.post(URL, content=b"no form at all", headers=form), 400, "invalid_form")
    problem(await client.post(URL, content=b"", headers=form), 400, "invalid_form")
    cut = b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\n' + DATA
    problem(await client.post(URL, content=cut, headers=form), 400, "invalid_form")
    many = b"--x\r\n" + b"A: b\r\n" * 1000
    problem(await client.post(URL, content=many, headers=form), 400, "invalid_form")
    problem(
        await client.post(URL, content=b"", headers={"Content-Type": "multipart/form-data"}),
        400,
        "invalid_form",
    )
    assert await rows(database, "uploads") == 0


async def test_a_file_over_the_limit_is_refused_declared_or_not(
    app: Application, client: httpx.AsyncClient, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = app.services
    monkeypatch.setattr(services.uploads, "max_bytes", len(DATA) - 1)
    assert "limit of" in problem(await send(client), 413, "payload_too_large")["detail"]
    assert await rows(database, "upload_chunks") == 0

    async def endless() -> AsyncIterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\n' + DATA[:-100]
        for _ in range(30):
            yield bytes(1_000_000)

    form = {"Content-Type": "multipart/form-data; boundary=x"}
    problem(await client.post(URL, content=endless(), headers=form), 413, "payload_too_large")
    assert await rows(database, "uploads") == 0


async def test_a_client_that_stops_sending_is_told_so_and_leaves_nothing(
    client: httpx.AsyncClient, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(body, "IDLE_SECONDS", 0.2)

    async def stalls() -> AsyncIterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\n' + DATA
        await asyncio.sleep(1)
        yield b"\r\n--x--\r\n"

    form = {"Content-Type": "multipart/form-data; boundary=x"}
    problem(await client.post(URL, content=stalls(), headers=form), 408, "request_timeout")
    assert await rows(database, "uploads") == 0


async def test_ids_of_others_and_keys_without_the_scope_get_nowhere(
    client: httpx.AsyncClient, anonymous: httpx.AsyncClient, database: Database
) -> None:
    made = (await send(client)).json()
    others = bearer(await factories.key(database, project="other"))
    reader = bearer(await factories.key(database, scopes=[READ]))

    for url in (made["url"], made["content_url"], f"{URL}/{uuid4()}", f"{URL}/nonsense"):
        problem(await anonymous.get(url, headers=others), 404, "upload_not_found")
    problem(await anonymous.delete(made["url"], headers=others), 404, "upload_not_found")
    problem(await anonymous.post(URL, files={"file": DATA}, headers=reader), 403, "insufficient_scope")
    problem(await anonymous.post(URL, files={"file": DATA}), 401, "unauthenticated")
    assert (await anonymous.get(made["url"], headers=reader)).status_code == 200


async def test_delete_takes_the_bytes_too(client: httpx.AsyncClient, database: Database) -> None:
    made = (await send(client)).json()

    assert (await client.delete(made["url"])).status_code == 204
    problem(await client.get(made["content_url"]), 404, "upload_not_found")
    problem(await client.delete(made["url"]), 404, "upload_not_found")
    assert await rows(database, "upload_chunks") == 0
    assert (await send(client)).status_code == 201


async def test_one_that_is_still_coming_is_not_there(
    client: httpx.AsyncClient, app: Application, project_id: UUID, database: Database
) -> None:
    receiving = app.services.uploads.receive(project_id)
    await receiving.write(DATA)

    async with database.transaction() as db:
        upload_id = (await db.execute(text("SELECT id FROM uploads"))).scalar_one()
    problem(await client.get(f"{URL}/{upload_id}"), 404, "upload_not_found")
    await receiving.abandon()
    assert await rows(database, "uploads") == 0


def editing(*images: dict[str, str]) -> dict[str, Any]:
    value = {**factories.IMAGE_JOB["input"], "input_images": list(images)}
    return {**factories.IMAGE_JOB, "input": value}


async def inputs(database: Database, job_id: str) -> list[Any]:
    statement = text("SELECT * FROM artifacts WHERE job_id = :id AND role = 'input' ORDER BY position")
    async with database.transaction() as db:
        return list(await db.execute(statement, {"id": job_id}))


async def test_jobs_refer_to_an_upload_and_it_stays_as_long_as_they_do(
    client: httpx.AsyncClient, database: Database
) -> None:
    made = (await send(client)).json()
    inline = base64.b64encode(picture("JPEG")).decode()
    images = ({"data": inline}, {"upload_id": made["id"]}, {"url": f"data:image/jpeg;base64,{inline}"})
    first = await client.post("/api/v1/jobs", json=editing(*images))
    keyed = await client.post("/api/v1/jobs", json=editing(*images), headers={"Idempotency-Key": "a"})
    replay = await client.post(f"/api/v1/jobs/{first.json()['id']}/replay")
    jobs = [answer.json()["id"] for answer in (first, keyed, replay)]

    assert [answer.status_code for answer in (first, keyed, replay)] == [202] * 3
    assert await rows(database, "artifact_bytes") == 6  # those of the upload are not copied
    for job_id in jobs:
        _, uploaded, _ = await inputs(database, job_id)
        assert (str(uploaded.upload_id), uploaded.byte_size) == (made["id"], len(DATA))
        whole = await client.get(f"/api/v1/artifacts/{uploaded.id}")
        assert whole.content == DATA
    found = problem(await client.delete(made["url"]), 409, "upload_in_use")
    assert any(job_id in found["detail"] for job_id in jobs)
    for job_id in jobs:
        await client.post(f"/api/v1/jobs/{job_id}/cancel")
        assert (await client.delete(f"/api/v1/jobs/{job_id}")).status_code == 204
    assert (await client.delete(made["url"])).status_code == 204


async def test_a_replay_keeps_the_urls_of_its_source(client: httpx.AsyncClient, database: Database) -> None:
    job = await client.post("/api/v1/jobs", json=editing({"url": "https://example.com/a.png"}))
    same = await client.post(f"/api/v1/jobs/{job.json()['id']}/replay")
    none = await client.post(
        f"/api/v1/jobs/{job.json()['id']}/replay", json={"input": {"input_images": None}}
    )

    async with database.transaction() as db:
        found = await db.execute(text("SELECT id, input->'input_urls' AS urls FROM jobs"))
        urls = {str(row.id): row.urls for row in found}
    assert urls == {
        job.json()["id"]: {"0": "https://example.com/a.png"},
        same.json()["id"]: {"0": "https://example.com/a.png"},
        none.json()["id"]: None,
    }


async def test_pictures_that_are_not_there_or_may_not_be_fetched_are_refused_at_submit(
    client: httpx.AsyncClient, anonymous: httpx.AsyncClient, database: Database
) -> None:
    others = bearer(await factories.key(database, project="other"))
    foreign = (await anonymous.post(URL, files={"file": DATA}, headers=others)).json()["id"]
    bad = [
        {"upload_id": str(uuid4())},
        {"upload_id": foreign},
        {"url": "https://10.0.0.1/a.png"},
        {"url": "ftp://example.com/a.png"},
        {"url": "https://user:secret@example.com/a.png"},
    ]
    found = problem(await client.post("/api/v1/jobs", json=editing(*bad)), 422, "validation_failed")

    assert {(error["pointer"], error["code"]) for error in found["errors"]} == {
        ("/input/input_images/0/upload_id", "not_found"),
        ("/input/input_images/1/upload_id", "not_found"),
        ("/input/input_images/2/url", "refused"),
        ("/input/input_images/3/url", "refused"),
        ("/input/input_images/4/url", "refused"),
    }
    assert "secret" not in str(found)
    assert await rows(database, "jobs") == 0


async def test_an_upload_over_the_models_limit_is_told_at_submit(
    client: httpx.AsyncClient, database: Database
) -> None:
    made = (await send(client)).json()
    async with database.transaction() as db:
        await db.execute(text("UPDATE uploads SET byte_size = 7000001"))
    found = problem(
        await client.post("/api/v1/jobs", json=editing({"upload_id": made["id"]})), 422, "validation_failed"
    )

    assert [error["code"] for error in found["errors"]] == ["too_large"]


async def test_an_upload_that_goes_between_the_look_and_the_write_leaves_no_job(
    client: httpx.AsyncClient, app: Application, project_id: UUID, database: Database
) -> None:
    made = (await send(client)).json()
    jobs = app.services.jobs
    draft = await jobs.draft(project_id, JobSubmit.model_validate(editing({"upload_id": made["id"]})))
    assert (await client.delete(made["url"])).status_code == 204

    with pytest.raises(ValidationFailed) as caught:
        await jobs.store(draft)

    assert caught.value.errors[0].pointer == "/input/input_images/0/upload_id"
    assert await rows(database, "jobs") == 0
