"""Ten thousand jobs in one request, of a server that is a process of its own: time, memory, and everybody else."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from sqlalchemy import text

from shared.config import Settings
from shared.db import Database
from shared.jobs.status import State
from shared.queue import Doorbell
from shared.wakeups import Wakeups
from tests import factories
from tests.integration.api.conftest import bearer
from tests.integration.api.test_server import Server, server
from tests.patience import PATIENCE
from worker.maintenance import Maintenance

__all__ = ["server"]

JOBS = 10_000
#: What the process may grow by while it takes 10 MB of jobs: the body, what goes to the database, and as much again.
_GROWTH = 50_000_000


def job(number: int) -> dict[str, Any]:
    prompt = f"Prompt {number}: write a haiku about a plantain. " + 'It should "rhyme".\n' * 40
    return {"kind": "text.generate", "input": {"prompt": prompt}, "metadata": {"row": str(number)}}


@pytest.fixture
async def http(server: Server, key: str) -> AsyncIterator[httpx.AsyncClient]:
    base = f"http://127.0.0.1:{server.port}"
    async with httpx.AsyncClient(base_url=base, headers=bearer(key), timeout=60) as client:
        yield client


def peak(server: Server) -> int:
    """The largest the process has been, in bytes."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


@pytest.mark.parametrize("kind", ["application/json", "application/jsonl"])
async def test_ten_thousand_jobs_are_taken_in_bounded_memory_while_others_are_answered(
    server: Server,
    http: httpx.AsyncClient,
    database: Database,
    project_id: UUID,
    kind: str,
    record_property: Any,
) -> None:
    jobs = [job(number) for number in range(JOBS)]
    if kind == "application/json":
        body = json.dumps({"jobs": jobs, "tags": ["nightly"]}).encode()
    else:
        body = b"\n".join(json.dumps(entry).encode() for entry in jobs)
    other = await factories.job(database, project_id)
    for _ in range(20):
        await http.get(f"/api/v1/jobs/{other.id}")
    before, taken = peak(server), asyncio.Event()
    waits: list[float] = []

    async def poll() -> None:
        async with httpx.AsyncClient(base_url=http.base_url, headers=http.headers) as mine:
            while not taken.is_set():
                began = time.perf_counter()
                assert (await mine.get(f"/api/v1/jobs/{other.id}")).status_code == 200
                waits.append(time.perf_counter() - began)
                await asyncio.sleep(0.005)

    async with asyncio.TaskGroup() as group:
        group.create_task(poll())
        began = time.perf_counter()
        answer = await http.post("/api/v1/batches", content=body, headers={"Content-Type": kind})
        took = time.perf_counter() - began
        taken.set()
    growth = peak(server) - before
    waits.sort()
    record_property("seconds", took)
    record_property("growth", growth)
    print(
        f"{kind}: {len(body):,} bytes in {took:.2f} s, {growth:,} bytes of memory, {len(waits)} polls beside it: "
        f"half within {waits[len(waits) // 2] * 1000:.1f} ms, the slowest {waits[-1] * 1000:.0f} ms"
    )
    assert answer.status_code == 202, answer.text
    made = answer.json()
    assert (made["total"], made["counts"]["queued"]) == (JOBS, JOBS)
    async with database.transaction() as db:
        [row] = await db.execute(
            text(
                "SELECT count(*) AS jobs, count(published_at) AS published, min(batch_index) AS first, "
                "max(batch_index) AS last, bool_and(metadata ->> 'row' = batch_index::text) AS ordered "
                "FROM jobs WHERE batch_id = :id"
            ),
            {"id": made["id"]},
        )
    assert tuple(row) == (JOBS, JOBS, 0, JOBS - 1, True)
    assert growth < _GROWTH
    assert len(waits) > 20, "others were answered meanwhile"
    began = time.perf_counter()
    async with http.stream("GET", made["results_url"]) as results:
        indexes = [json.loads(line)["index"] async for line in results.aiter_lines()]
    assert indexes == list(range(JOBS))


@pytest.mark.parametrize(("point", "stored"), [("inserted", 0), ("committed", 2000)])
async def test_a_process_that_dies_in_the_middle_leaves_all_or_nothing(
    settings: Settings, tmp_path: Path, database: Database, key: str, point: str, stored: int
) -> None:
    orders = tmp_path / "orders"
    (orders / "taken").mkdir(parents=True)
    (orders / f"{point}.kill.any.1").touch()
    more = {"ENVIRONMENT": "test", "TEST_CHECKPOINTS": str(orders)}
    body = b"\n".join(json.dumps(job(number)).encode() for number in range(2000))
    headers = {**bearer(key), "Content-Type": "application/jsonl", "Idempotency-Key": "nightly"}
    server = Server(settings, tmp_path / "api.log", **more)
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", timeout=60) as client:
            with pytest.raises(httpx.HTTPError):
                await client.post("/api/v1/batches", content=body, headers=headers)
        server.process.wait(10)
        assert await rows(database) == (stored, 1 if stored else 0)
        server = Server(settings, tmp_path / "api.log", **more)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", timeout=60) as client:
            answer = await client.post("/api/v1/batches", content=body, headers=headers)
        assert answer.status_code == 202, answer.text
        assert ("idempotent-replayed" in answer.headers) == bool(stored)
        assert await rows(database) == (2000, 1)
    finally:
        server.process.kill()
        server.process.wait()


async def rows(database: Database) -> tuple[int, int]:
    """Jobs and batches."""
    async with database.transaction() as db:
        counts = "SELECT (SELECT count(*) FROM jobs) AS jobs, (SELECT count(*) FROM batches) AS batches"
        [row] = await db.execute(text(counts))
    return row.jobs, row.batches


async def test_a_batch_is_followed_to_its_end(
    http: httpx.AsyncClient, database: Database, project_id: UUID, settings: Settings, wakeups: Wakeups
) -> None:
    """Its progress in its own stream, its end also in the project's, under the same number."""
    made = (await http.post("/api/v1/batches", json={"jobs": [job(1), job(2)]})).json()
    doorbell = Doorbell(settings)
    maintenance = Maintenance(database, settings, doorbell, wakeups)
    async with http.stream("GET", made["events_url"]) as stream, asyncio.timeout(2 * PATIENCE):
        lines = stream.aiter_lines()
        first = await told(lines)
        assert (first["event"], first["data"]["counts"]["queued"], "id" in first) == (
            "batch.progress",
            2,
            False,
        )
        for row in (await http.get(made["jobs_url"])).json()["items"]:
            await factories.claim(database, UUID(row["id"]))
            await factories.finish(database, UUID(row["id"]), state=State.SUCCEEDED)
        second = await told(lines)
        assert (second["event"], second["data"]["counts"]["succeeded"]) == ("batch.progress", 2)
        await maintenance.tend_batches()
        last = await told(lines)
        assert (last["event"], last["data"]["state"]) == ("batch.completed", "completed")
        assert [line async for line in lines if line] == []
    await doorbell.close()
    again = await http.get(made["events_url"], headers={"Last-Event-ID": last["id"]})
    assert (again.status_code, again.content) == (204, b"")
    async with http.stream("GET", "/api/v1/events?last_event_id=0") as stream, asyncio.timeout(2 * PATIENCE):
        lines = stream.aiter_lines()
        async for line in lines:
            if line == f"id: {last['id']}":
                break
        assert (await told(lines))["data"]["data"]["batch_id"] == made["id"]


async def told(lines: AsyncIterator[str]) -> dict[str, Any]:
    """The next event of a stream."""
    fields: dict[str, Any] = {}
    async for line in lines:
        if not line and "data" in fields:
            break
        name, _, value = line.partition(": ")
        fields[name] = value
    return {**fields, "data": json.loads(fields["data"])}
