"""What a worker's log says: one line for each attempt that ended, under its job's id; an outage once."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from scripts.embedded import EmbeddedPostgres
from shared.logging import JsonFormatter
from shared.providers.base import Call, PermanentError, RateLimitedError, RetryableError
from tests.integration.worker.conftest import Scripted, Table, Worker, Workers, said
from tests.patience import PATIENCE


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Any:
    caplog.set_level("INFO")
    caplog.handler.setFormatter(JsonFormatter())

    def of(logger: str) -> list[dict[str, Any]]:
        every = [orjson.loads(line) for line in caplog.text.splitlines()]
        return [line for line in every if line["logger"] == logger]

    return of


def failing(error: Exception) -> Scripted:
    def act(_: Call) -> Any:
        raise error

    return Scripted(act)


async def test_a_retry_says_why_and_when(workers: Workers, table: Table, lines: Any) -> None:
    job_id = await table.add()
    error = RateLimitedError("Slow down.", delay=3.2, status=429)
    async with workers(failing(error)) as worker:
        assert await worker.run(job_id) == "queued"
    (line,) = lines("worker.report")
    assert line["message"] == "attempt 1 failed: Slow down; again in 3.2 s"
    assert line["level"] == "info"
    assert line["job_id"] == str(job_id)
    assert (line["outcome"], line["error_code"], line["provider_status"]) == ("failed", "rate_limited", 429)
    assert line["model"] == "gemini-flash"
    assert line["seconds"] >= 0


async def test_every_line_of_an_attempt_names_the_request_that_submitted_the_job(
    workers: Workers, table: Table, lines: Any
) -> None:
    def act(_: Call) -> Any:
        raise ValueError("a driver's bug")

    mine, nobodys = await table.add(request_id="trace-42", max_attempts=1), await table.add(max_attempts=1)
    async with workers(Scripted(act)) as worker:
        for job_id in (mine, nobodys):
            await worker.run(job_id)
    told = [*lines("worker.runner"), *lines("worker.report")]
    assert len(told) == 4
    assert {(line["job_id"], line.get("request_id")) for line in told} == {
        (str(mine), "trace-42"),
        (str(nobodys), None),
    }


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (PermanentError("No such model.", reason="model_not_found", status=404), "No such model"),
        (RetryableError("x" * 5000, status=500), "x" * 300),
    ],
)
async def test_a_failed_job_is_a_warning(
    workers: Workers, table: Table, lines: Any, error: Exception, says: str
) -> None:
    job_id = await table.add(max_attempts=1)
    async with workers(failing(error)) as worker:
        assert await worker.run(job_id) == "failed"
    (line,) = lines("worker.report")
    assert line["message"] == f"attempt 1 failed: {says}; the job failed"
    assert line["level"] == "warning"


async def test_each_line_is_under_its_own_job(workers: Workers, table: Table, lines: Any) -> None:
    ids = [await table.add() for _ in range(5)]
    async with workers(Scripted(lambda _: said("fine"))) as worker:
        await asyncio.gather(*(worker.run(job_id) for job_id in ids))
    assert {line["job_id"]: line["message"] for line in lines("worker.report")} == {
        str(job_id): "attempt 1 succeeded" for job_id in ids
    }


async def test_a_bug_of_a_driver_is_logged_under_the_job(workers: Workers, table: Table, lines: Any) -> None:
    job_id = await table.add()
    async with workers(failing(ZeroDivisionError())) as worker:
        await worker.run(job_id)
    (line,) = lines("worker.runner")
    assert line["job_id"] == str(job_id)
    assert "ZeroDivisionError" in line["exception"]


async def test_a_cancelled_job_says_so(worker: Worker, table: Table, lines: Any) -> None:
    job_id = await table.add("[[sim:latency=30]]")
    run = asyncio.create_task(worker.run(job_id))
    await table.until_sent(job_id)
    await table.cancel(job_id)
    await worker.wakeups.cancel_requested(job_id)
    assert await run == "cancelled"
    (line,) = lines("worker.report")
    assert line["message"] == "attempt 1 was cancelled"
    # It was the simulator's, although no answer came that says so.
    assert (await table.attempts(job_id))[0].provider == "simulator"


async def test_an_outage_is_told_once_with_its_reason(
    workers: Workers, table: Table, postgres: EmbeddedPostgres, lines: Any
) -> None:
    ids = [await table.add() for _ in range(5)]
    async with workers(Scripted(lambda _: said("fine"))) as worker:
        await asyncio.to_thread(postgres.stop)
        runs = [asyncio.create_task(worker.run(job_id)) for job_id in ids]
        await asyncio.sleep(1.5)
        await asyncio.to_thread(postgres.start)
        assert await asyncio.gather(*runs) == ["succeeded"] * 5
        async with asyncio.timeout(PATIENCE):
            while len(lines("shared.db")) < 2:
                await asyncio.sleep(0.1)
    began, over = lines("shared.db")
    assert began["message"].startswith("the database cannot be used: ")
    assert "OperationalError" not in began["message"]
    assert over["message"].startswith("the database can be used again; it could not for ")
    assert lines("worker.runner") == lines("worker.recorder") == lines("worker.flights") == []
