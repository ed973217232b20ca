"""Input pictures on their way from where they lie to the model: the database, uploads, and other people's servers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from shared.artifacts import queries as artifacts
from shared.config import Settings
from shared.kinds.base import INPUT_URLS
from shared.providers.base import Call, Generation, ImageBytes, Usage
from shared.providers.catalog import catalog
from shared.uploads import queries as uploads
from shared.uploads.service import UploadService
from tests import factories
from tests.integration.worker.conftest import Scripted, Table, Workers
from tests.patience import PATIENCE
from tests.pictures import animated, bomb, picture
from worker.inputs import InputImages
from worker.maintenance import Maintenance

PNG, JPEG, WEBP = picture("PNG"), picture("JPEG"), picture("WEBP")


class Painter(Scripted):
    """Answers with a picture, and keeps what it was shown."""

    def __init__(self) -> None:
        answer = Generation(None, [ImageBytes(PNG, "image/png", 40, 30)], "stop", Usage(10, 20))
        super().__init__(lambda _: answer)
        self.shown: list[bytes] = []
        self.timeout = 0.0

    async def generate(self, request: Any, call: Call) -> Generation:
        self.shown = [image.data for image in request.input_images]
        self.timeout = call.timeout
        return await super().generate(request, call)


class Gallery:
    """A server of pictures, and of what is none."""

    def __init__(self) -> None:
        self.answers: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.pause = 0.0
        self.closed = 0
        self.port = 0

    def put(self, path: str, body: bytes, status: str = "200 OK", *headers: str) -> str:
        head = "\r\n".join([f"HTTP/1.1 {status}", f"content-length: {len(body)}", *headers])
        self.answers[path] = head.encode() + b"\r\n\r\n" + body
        return f"http://127.0.0.1:{self.port}{path}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
        self.asked.append(path)
        with contextlib.suppress(TimeoutError):  # it ends with the pause, or with the client's patience
            async with asyncio.timeout(self.pause):
                await reader.read()
        writer.write(self.answers[path])
        writer.close()
        self.closed += 1


@pytest.fixture
async def gallery() -> AsyncIterator[Gallery]:
    made = Gallery()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    yield made
    server.close()
    async with asyncio.timeout(PATIENCE / 2):
        while made.closed < len(made.asked):
            await asyncio.sleep(0.01)


async def add(table: Table, urls: dict[str, str] | None = None, **columns: Any) -> UUID:
    value = {**factories.IMAGE_JOB["input"], **({INPUT_URLS: urls} if urls else {})}
    return await table.add_image(**{"input": value, **columns})


async def test_pictures_from_everywhere_come_in_their_order(
    table: Table, workers: Workers, gallery: Gallery
) -> None:
    painter = Painter()
    job_id = await add(table, {"1": gallery.put("/b.png", JPEG)}, timeout_seconds=100.0)
    async with workers(painter) as worker:
        receiving = UploadService(table.database, worker.runner._settings).receive(table.project_id)
        large = picture("PNG", (500, 450))
        await receiving.write(large)
        upload, _ = await receiving.complete(filename=None, digest=None)
        async with table.database.transaction() as db:
            rest = {"project_id": table.project_id, "job_id": job_id}
            assert await uploads.hold(db, table.project_id, [upload.id]) == {upload.id}
            await artifacts.refer(db, table.project_id, [(uuid7(), job_id, 0, upload.id)])
            await artifacts.insert(
                db,
                artifact_id=uuid7(),
                role="input",
                position=2,
                media_type="image/webp",
                data=WEBP,
                digest=artifacts.digest_of(WEBP),
                width=40,
                height=30,
                **rest,
            )
        assert await worker.run(job_id) == "succeeded"

    assert painter.shown == [large, JPEG, WEBP]
    assert 50 <= painter.timeout < 100  # what was fetched took from the time of the call


Answer = Callable[[Gallery], str]


@pytest.mark.parametrize(
    ("answer", "state", "code", "words"),
    [
        (lambda g: g.put("/x", b"", "404 Not Found"), "failed", "input_unavailable", "answered 404"),
        (lambda g: g.put("/x", b"", "302 Found", "location: /y"), "failed", "input_unavailable", "redirects"),
        (lambda g: g.put("/x", b"", "503 Busy"), "queued", "input_unavailable", "answered 503"),
        (lambda g: g.put("/x", b"", "429 Slow down"), "queued", "input_unavailable", "answered 429"),
        (lambda _: "http://127.0.0.1:1024/x", "queued", "input_unavailable", "refuses connections"),
        (lambda _: "http://10.0.0.1/x", "failed", "input_refused", "public internet"),
        (lambda g: g.put("/x", b"<html>"), "failed", "invalid_image", "is no PNG"),
        (lambda g: g.put("/x", PNG[:-200]), "failed", "invalid_image", "cut off"),
        (lambda g: g.put("/x", bytes(7_000_001)), "failed", "invalid_image", "more than 7,000,000"),
        (lambda g: g.put("/x", bomb()), "failed", "invalid_image", "million"),
        (lambda g: g.put("/x", animated("WEBP")), "failed", "invalid_image", "animated"),
        (lambda g: g.put("/x", picture("GIF")), "failed", "invalid_image", "image/gif"),
    ],
)
async def test_a_picture_that_cannot_be_had_or_used_calls_no_model(
    table: Table, workers: Workers, gallery: Gallery, answer: Answer, state: str, code: str, words: str
) -> None:
    painter = Painter()
    job_id = await add(table, {"0": answer(gallery)})
    async with workers(painter) as worker:
        await worker.run(job_id)

    job = await table.get(job_id)
    (attempt,) = await table.attempts(job_id)
    assert (job.state, job.error["code"]) == (state, code)
    assert words in job.error["message"]
    assert job.error["retryable"] is (state == "queued")
    assert (painter.calls, attempt.sent_at, job.cost_usd) == ([], None, 0)


async def test_what_came_with_the_job_is_decoded_as_well(table: Table, workers: Workers) -> None:
    """A submit looks at headers only: the pixels behind this one are damaged."""
    painter = Painter()
    data = bytearray(picture("PNG", (200, 200)))
    data[2000:3000] = bytes(1000)
    job_id = await add(table)
    async with table.database.transaction() as db:
        await artifacts.insert(
            db,
            artifact_id=uuid7(),
            project_id=table.project_id,
            job_id=job_id,
            role="input",
            position=0,
            media_type="image/png",
            data=bytes(data),
            digest=artifacts.digest_of(bytes(data)),
            width=200,
            height=200,
        )
    async with workers(painter) as worker:
        assert await worker.run(job_id) == "failed"

    job = await table.get(job_id)
    assert (job.error["code"], painter.calls) == ("invalid_image", [])
    assert "input_images/0 is damaged" in job.error["message"]


async def test_a_slow_fetch_keeps_its_lease(
    table: Table, workers: Workers, gallery: Gallery, maintenance: Maintenance
) -> None:
    painter = Painter()
    gallery.pause = 1.0
    job_id = await add(table, {"0": gallery.put("/slow.png", PNG)})
    async with workers(painter, lease_seconds=0.6, lease_renew_seconds=0.15) as worker:
        run = asyncio.create_task(worker.run(job_id))
        await asyncio.sleep(0.9)
        assert await maintenance.rescue() == 0
        assert await run == "succeeded"
    assert gallery.asked == ["/slow.png"]


async def test_one_that_takes_too_long_is_given_up_in_time(
    table: Table, workers: Workers, gallery: Gallery
) -> None:
    painter = Painter()
    gallery.pause = 30.0
    job_id = await add(table, {"0": gallery.put("/slow.png", PNG)}, timeout_seconds=1.0)
    async with workers(painter) as worker:
        assert await worker.run(job_id) == "queued"
    job = await table.get(job_id)
    assert (job.error["code"], painter.calls) == ("input_unavailable", [])
    assert "0.5 s" in job.error["message"]


async def test_a_host_that_hangs_holds_up_its_own_fetches_only(settings: Settings, gallery: Gallery) -> None:
    inputs = InputImages(settings)
    can = catalog()["nano-banana"].image
    assert can is not None
    url = gallery.put("/a.png", PNG)
    gallery.pause = 30.0
    hanging = [asyncio.create_task(inputs.ready({}, {"0": url}, can, 20)) for _ in range(20)]
    try:
        async with asyncio.timeout(PATIENCE / 2):
            while len(gallery.asked) < 8:
                await asyncio.sleep(0.01)
        gallery.pause = 0.0
        elsewhere = url.replace("127.0.0.1", "localhost")
        async with asyncio.timeout(PATIENCE / 2):
            (found,) = await inputs.ready({}, {"0": elsewhere}, can, 20)
        assert (found.data, len(gallery.asked)) == (PNG, 9)
    finally:
        for task in hanging:
            task.cancel()
        await asyncio.gather(*hanging, return_exceptions=True)
        await inputs.aclose()


async def test_a_cancel_ends_a_fetch_at_once(table: Table, workers: Workers, gallery: Gallery) -> None:
    painter = Painter()
    gallery.pause = 30.0
    job_id = await add(table, {"0": gallery.put("/slow.png", PNG)})
    async with workers(painter) as worker:
        run = asyncio.create_task(worker.run(job_id))
        async with asyncio.timeout(PATIENCE / 2):
            while not gallery.asked:
                await asyncio.sleep(0.01)
            await table.cancel(job_id)
            assert await run == "cancelled"
    (attempt,) = await table.attempts(job_id)
    assert (painter.calls, attempt.sent_at, attempt.cost_usd) == ([], None, 0)
