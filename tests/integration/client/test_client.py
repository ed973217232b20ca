"""The client against a real API: what breaks on the way reaches its caller neither as loss nor as a second time."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
from PIL import Image
from sqlalchemy import text

from shared.client import (
    BatchTimeout,
    Conflict,
    DownloadFailed,
    NoAnswer,
    NotFound,
    Plantain,
    Retries,
    Unauthenticated,
    ValidationFailed,
    WaitTimeout,
    operations,
    picture,
)
from shared.db import Database
from shared.jobs.status import State
from shared.wakeups import Wakeups
from tests import factories
from tests.e2e.faults.proxy import Proxy
from tests.integration.client.conftest import QUICK, Face

INPUT = factories.TEXT_JOB["input"]


async def count(database: Database, project_id: UUID) -> int:
    async with database.transaction() as db:
        found = await db.execute(text("SELECT count(*) FROM jobs WHERE project_id = :id"), {"id": project_id})
        return int(found.scalar_one())


class TestSubmit:
    async def test_an_answer_that_is_lost_again_and_again_makes_one_job(
        self, face: Face, proxy: Proxy, database: Database, project_id: UUID
    ) -> None:
        proxy.break_after(0, 0, 40, 0)
        job = await face("submit", "text.generate", INPUT, tags=["once"], keep_for=timedelta(days=7))
        assert (job.state, job.tags, job.keep_for) == ("queued", ("once",), 7 * 86400)
        assert await count(database, project_id) == 1
        shown = await face("get", job.id)
        assert shown.queue_position is not None, "which a submit asks nobody for"
        assert replace(shown, queue_position=None) == replace(job, queue_position=None)

    async def test_a_server_that_is_away_for_a_moment_is_waited_for(
        self, face: Face, proxy: Proxy, database: Database, project_id: UUID
    ) -> None:
        proxy.refuse()
        asyncio.get_running_loop().call_later(0.5, proxy.heal)
        await face("submit", "text.generate", INPUT)
        assert await count(database, project_id) == 1

    async def test_a_key_of_the_callers_holds_across_calls(self, face: Face) -> None:
        first = await face("submit", "text.generate", INPUT, idempotency_key="order-42")
        again = await face("submit", "text.generate", INPUT, idempotency_key="order-42")
        assert again.id == first.id
        with pytest.raises(ValidationFailed) as caught:
            await face("submit", "text.generate", {"prompt": "another"}, idempotency_key="order-42")
        assert caught.value.code == "idempotency_key_reused"

    async def test_what_is_wrong_is_named_field_by_field(self, face: Face) -> None:
        with pytest.raises(ValidationFailed) as caught:
            await face("submit", "text.generate", {"prompt": "x", "temperatur": 1}, priority="soon")
        pointers = {entry.pointer for entry in caught.value.errors}
        assert "/priority" in pointers
        said = str(caught.value)
        assert "/priority" in said
        assert "interactive" in said
        assert caught.value.request_id
        assert caught.value.request_id in said

    async def test_a_replay_is_made_once_too(
        self, face: Face, proxy: Proxy, database: Database, project_id: UUID
    ) -> None:
        source = await factories.job(database, project_id, state=State.SUCCEEDED)
        proxy.break_after(0, 0)
        job = await face("replay", str(source.id), {"priority": "batch"})
        assert (job.replay_of, job.priority) == (str(source.id), "batch")
        assert await count(database, project_id) == 2


class TestBatches:
    async def test_an_answer_that_is_lost_makes_no_second_batch(
        self, face: Face, proxy: Proxy, database: Database, project_id: UUID
    ) -> None:
        proxy.break_after(0, 40)
        jobs = [{"input": {"prompt": f"Number {number}"}} for number in range(3)]
        batch = await face("submit_batch", iter(jobs), defaults={"kind": "text.generate"}, tags=["many"])
        assert (batch.state, batch.total, batch.tags, batch.counts["queued"]) == ("running", 3, ("many",), 3)
        assert await count(database, project_id) == 3
        assert await face("batch", batch.id) == batch
        with pytest.raises(BatchTimeout) as caught:
            await face("wait_batch", batch.id, timeout=0)
        assert caught.value.batch.id == batch.id

    async def test_a_job_that_is_not_allowed_is_named(self, face: Face) -> None:
        with pytest.raises(ValidationFailed) as caught:
            await face("submit_batch", [{"kind": "text.generate", "input": INPUT}, {"kind": "text.generate"}])
        assert [error.pointer for error in caught.value.errors] == ["/jobs/1/input"]

    async def test_results_come_once_and_in_order_through_connections_that_break(
        self, face: Face, proxy: Proxy, database: Database
    ) -> None:
        jobs = [{"kind": "text.generate", "input": INPUT, "metadata": {"row": str(n)}} for n in range(250)]
        batch = await face("submit_batch", jobs)
        async with database.transaction() as db:
            await db.execute(
                text("""
                    UPDATE jobs SET state = 'succeeded', finished_at = now(), published_at = NULL,
                        result = jsonb_build_object('text', repeat('🍌é', 100)) WHERE batch_id = :id
                """),
                {"id": batch.id},
            )
        proxy.break_after(0, 40, 30_000, 100_000, 1_000, 0)
        proxy.cut()
        results = await face.each("batch_results", batch.id)
        assert [result.index for result in results] == list(range(250))
        assert [result.metadata["row"] for result in results] == [str(number) for number in range(250)]
        assert {(result.state, result.output.text) for result in results} == {("succeeded", "🍌é" * 100)}
        assert [result.index for result in await face.each("batch_results", batch.id, after=247)] == [
            248,
            249,
        ]
        assert await face.each("batch_results", batch.id, after=249) == []

    async def test_a_cancel_says_what_it_did(self, face: Face, proxy: Proxy) -> None:
        batch = await face("submit_batch", [{"kind": "text.generate", "input": INPUT}] * 3)
        done = await face("cancel_batch", batch.id)
        assert (done.cancelled, done.cancel_requested, done.more) == (3, 0, False)
        assert done.batch.counts["cancelled"] == 3
        proxy.break_after(0)
        proxy.cut()
        assert (await face("cancel_batch", batch.id)).cancelled == 0
        with pytest.raises(NotFound):
            await face("cancel_batch", "no-such-batch")


class TestErrors:
    def test_who_gives_up_says_what_happened_and_no_secret(self, proxy: Proxy, key: str) -> None:
        proxy.refuse()
        client = Plantain(f"http://127.0.0.1:{proxy.port}", key, retries=Retries(tries=2, first=0.01))
        with client, pytest.raises(NoAnswer, match=r"GET /api/v1/jobs/1: .* after 2 tries") as caught:
            client.get("1")
        secret = key.split("_", 2)[2]  # it may hold more of them
        cause = caught.value.__cause__
        assert secret not in f"{client!r} {caught.value!r} {caught.value} {cause!r} {vars(caught.value)}"
        assert secret not in repr(getattr(cause, "request").headers)  # noqa: B009

    def test_a_wrong_key_is_refused_at_once(self, proxy: Proxy, key: str) -> None:
        with (
            Plantain(f"http://127.0.0.1:{proxy.port}", f"{key[:-3]}xyz", retries=QUICK) as client,
            pytest.raises(Unauthenticated) as caught,
        ):
            client.summary()
        assert caught.value.code == "invalid_api_key"
        assert key[-8:-3] not in str(caught.value)


class TestOneJob:
    async def test_waits_until_the_end_however_it_comes(
        self, face: Face, database: Database, project_id: UUID, wakeups: Wakeups, proxy: Proxy
    ) -> None:
        row = await factories.job(database, project_id)
        with pytest.raises(WaitTimeout) as caught:
            await face("wait", str(row.id), timeout=0.2)
        assert caught.value.job.state == "queued"

        waiting = asyncio.ensure_future(face("wait", str(row.id), timeout=20))
        await asyncio.sleep(0.2)
        proxy.cut()
        await factories.claim(database, row.id)
        await factories.finish(database, row.id, state=State.FAILED)
        wakeups.changed([(project_id, row.id)])
        job = await waiting
        assert (job.state, job.is_final, job.succeeded) == ("failed", True, False)
        assert job.error.code == "invalid_request"
        with pytest.raises(Conflict, match="refused") as refused:
            await face("result", str(row.id))
        assert refused.value.code == "job_failed"

    async def test_watching_tells_every_change(
        self, face: Face, database: Database, project_id: UUID, wakeups: Wakeups
    ) -> None:
        row = await factories.job(database, project_id)
        loop = asyncio.get_running_loop()

        async def go_on(state: str) -> None:
            if state == "queued":
                await factories.claim(database, row.id)
            else:
                await factories.finish(database, row.id, state=State.SUCCEEDED)
            wakeups.changed([(project_id, row.id)])

        def seen(job: object) -> None:
            state = getattr(job, "state", "")
            if state in {"queued", "running"}:
                asyncio.run_coroutine_threadsafe(go_on(state), loop)

        jobs = await face.each("watch", str(row.id), timeout=20, seen=seen)
        assert [job.state for job in jobs] == ["queued", "running", "succeeded"]
        result = await face("result", str(row.id))
        assert result.result.text == "green and yellow"

    async def test_a_delete_whose_answer_was_lost_has_deleted(
        self, face: Face, proxy: Proxy, database: Database, project_id: UUID
    ) -> None:
        row = await factories.job(database, project_id, state=State.SUCCEEDED)
        proxy.break_after(0)
        await face("delete", str(row.id))
        assert await count(database, project_id) == 0
        with pytest.raises(NotFound):
            await face("delete", str(row.id))

    async def test_cancels_and_counts(self, face: Face, database: Database, project_id: UUID) -> None:
        one, *others = [await factories.job(database, project_id) for _ in range(3)]
        assert (await face("cancel", str(one.id))).outcome == "cancelled"
        assert (await face("cancel", str(one.id))).outcome == "cancelled", "again is no error"
        counted = await face("cancel_all", kind="text.generate", state="queued", dry_run=True)
        assert (counted.matched, counted.cancelled) == (len(others), 0)
        assert (await face("cancel_all", state=["queued", "running"])).cancelled == len(others)
        assert (await face("summary")).states["cancelled"] == 3


async def test_a_list_goes_on_from_page_to_page(
    face: Face, database: Database, project_id: UUID, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [str((await factories.job(database, project_id)).id) for _ in range(5)]
    monkeypatch.setattr(operations, "_PAGE", 2)
    listed = await face.each("jobs", seen=lambda _: proxy.cut())
    assert [job.id for job in listed] == made[::-1]
    assert [job.id for job in await face.each("jobs", limit=3)] == made[:1:-1]
    assert await face.each("jobs", state=["failed"], metadata={"user": "42"}, tag="none") == []


class TestStreams:
    async def test_of_a_job_each_event_once_through_a_connection_that_breaks_all_the_time(
        self, face: Face, database: Database, project_id: UUID, wakeups: Wakeups, proxy: Proxy
    ) -> None:
        row = await factories.job(database, project_id)
        loop = asyncio.get_running_loop()

        async def go_on(kind: str) -> None:
            if kind == "job.queued":
                await factories.claim(database, row.id)
            elif kind == "job.running":
                await factories.finish(database, row.id, state=State.SUCCEEDED)
            wakeups.changed([(project_id, row.id)])

        def seen(event: object) -> None:
            if getattr(event, "type", "") == "job.queued":
                proxy.cut()
            proxy.break_after(700)  # in the middle of an event
            asyncio.run_coroutine_threadsafe(go_on(getattr(event, "type", "")), loop)

        events = await face.each("stream", str(row.id), seen=seen)
        assert [event.type for event in events] == ["job.queued", "job.running", "job.succeeded"]
        assert [event.version for event in events] == [1, 2, 3]
        assert await face.each("stream", str(row.id), last_event_id=events[-1].id) == []
        rest = await face.each("stream", str(row.id), last_event_id=events[0].id)
        assert [event.id for event in rest] == [event.id for event in events[1:]]

    async def test_of_a_project_nothing_is_lost_before_the_first_event(
        self, face: Face, database: Database, project_id: UUID, proxy: Proxy
    ) -> None:
        following = asyncio.ensure_future(face.each("stream", most=2))
        while not proxy.connections:
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.5)
        proxy.refuse()
        first, second = [await factories.job(database, project_id) for _ in range(2)]
        proxy.heal()
        events = await following
        assert [event.job_id for event in events] == [str(first.id), str(second.id)]


async def test_a_file_is_uploaded_once(face: Face, proxy: Proxy, tmp_path: Path) -> None:
    image, file = Image.effect_noise((64, 48), 50), tmp_path / 'a "plantain".png'
    image.save(file)
    proxy.break_after(0, 0)
    upload = await face("upload", file)
    assert (upload.media_type, upload.width, upload.height) == ("image/png", 64, 48)
    assert upload.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert (await face("upload", file.read_bytes())).id == upload.id
    assert picture(upload) == {"upload_id": upload.id}


class TestDownloads:
    #: Its first byte is none that a case below puts there.
    DATA = b"\x89" + os.urandom(2_999_999)

    @pytest.fixture
    async def artifact(self, database: Database, project_id: UUID) -> str:
        row = await factories.job(database, project_id, kind="image.generate", state=State.SUCCEEDED)
        return str(await factories.artifact(database, row, self.DATA))

    async def test_what_breaks_off_goes_on_where_it_was(
        self, face: Face, proxy: Proxy, artifact: str, tmp_path: Path
    ) -> None:
        proxy.break_after(0, 900_000, 200, 900_000)
        path = await face("download", artifact, tmp_path)
        assert path == tmp_path / f"{artifact}.png"
        assert path.read_bytes() == self.DATA
        assert [entry.name for entry in tmp_path.iterdir()] == [path.name]

    @pytest.mark.parametrize(
        ("kept", "fetched"),
        [
            (lambda data: data[:2_000_000], 1_000_000),
            (lambda data: b"?" + data[1:2_000_000], 4_000_000),
            (lambda data: data + b"?", 3_000_000),
        ],
        ids=["of this picture", "of another one", "too much"],
    )
    async def test_a_part_of_an_earlier_call_is_used_if_it_is_right(
        self,
        proxy: Proxy,
        key: str,
        artifact: str,
        tmp_path: Path,
        kept: Callable[[bytes], bytes],
        fetched: int,
    ) -> None:
        (tmp_path / f".{artifact}.part").write_bytes(kept(self.DATA))
        with Plantain(f"http://127.0.0.1:{proxy.port}", key, retries=QUICK) as client:
            path = await asyncio.to_thread(client.download, artifact, tmp_path / "picture.png")
        assert hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(self.DATA).digest()
        assert fetched <= proxy.passed_to_client < fetched + 10_000

    async def test_wrong_bytes_are_put_nowhere(
        self, face: Face, database: Database, artifact: str, tmp_path: Path
    ) -> None:
        async with database.transaction() as db:
            await db.execute(
                text("UPDATE artifacts SET sha256 = decode(repeat('00', 32), 'hex') WHERE id = :id"),
                {"id": UUID(artifact)},
            )
        with pytest.raises(DownloadFailed):
            await face("download", artifact, tmp_path / "picture.png")
        assert list(tmp_path.iterdir()) == []

    async def test_without_an_artifact_there_is_no_file(self, face: Face, tmp_path: Path) -> None:
        with pytest.raises(NotFound):
            await face("download", "no/such?artifact", tmp_path / "picture.png")
        assert list(tmp_path.iterdir()) == []
