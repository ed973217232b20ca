"""Worker and beat as processes, with a real broker between: signals, rubbish in the queue, lost messages, order, speed."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from uuid import UUID

import pytest
from redis import Redis
from uuid_utils.compat import uuid7

from shared.config import Settings
from shared.queue import ALL_QUEUES, Doorbell, make_celery
from tests.conftest import SettingsFactory
from tests.contract.conftest import RunningSimulator
from tests.integration.worker.conftest import OBJECTED, Table, refuse_renewals
from tests.integration.worker.processes import BEAT, WORKER, Process, environment_of
from tests.patience import PATIENCE

pytestmark = pytest.mark.timeout(90)

Start = Callable[..., Process]


@pytest.fixture
def settings(make_settings: SettingsFactory, simulator: RunningSimulator) -> Settings:
    return make_settings(
        simulator_url=simulator.url,
        lease_seconds=1.5,
        lease_renew_seconds=0.5,
        retry_base_seconds=0.001,
        retry_cap_seconds=0.001,
        republish_after_seconds=1,
        worker_concurrency=10,
    )


@pytest.fixture
def start(settings: Settings, tmp_path: Path) -> Iterator[Start]:
    """Starts ``WORKER`` or ``BEAT``; whatever is left at the end is killed."""
    with ExitStack() as stack:

        def make(arguments: tuple[str, ...], **more: str) -> Process:
            log = tmp_path / f"{len(list(tmp_path.iterdir()))}.log"
            return stack.enter_context(Process(arguments, environment_of(settings, **more), log))

        yield make


@pytest.fixture
async def doorbell(settings: Settings) -> AsyncIterator[Doorbell]:
    made = Doorbell(settings)
    yield made
    await made.close()


@pytest.fixture
def broker(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_url) as client:
        yield client


async def ring(doorbell: Doorbell, *ids: UUID, queue: str = "text.standard") -> None:
    assert await doorbell.ring([(job_id, queue) for job_id in ids]) == []


async def ready(table: Table, count: int = 1) -> None:
    await table.until("(SELECT count(*) FROM workers) = :count", count=count)


async def all_final(table: Table, seconds: float = PATIENCE) -> None:
    await table.until("NOT EXISTS (SELECT 1 FROM jobs WHERE finished_at IS NULL)", seconds=seconds)


def attempts_called(simulator: RunningSimulator, job_id: UUID) -> dict[str, int]:
    by_job: dict[str, dict[str, int]] = simulator.calls(str(job_id))["by_job"]
    return by_job.get(str(job_id), {})


async def test_sigterm_ends_what_runs_and_takes_no_more(
    start: Start, table: Table, doorbell: Doorbell, simulator: RunningSimulator
) -> None:
    worker = start(WORKER, LOG_FORMAT="json")
    job_id, late = await table.add("[[sim:latency=2.5]]"), await table.add()
    await ready(table)
    await ring(doorbell, job_id)
    await table.until_sent(job_id)
    worker.terminate()
    # It says that it takes no more, so that a client learns of an empty queue, and keeps its lease meanwhile.
    await table.until("EXISTS (SELECT 1 FROM workers WHERE queues = '{}' AND in_flight = 1)")
    await ring(doorbell, late)
    assert await asyncio.to_thread(worker.wait, 10) == 0
    assert (await table.get(job_id)).state == "succeeded"
    assert attempts_called(simulator, job_id) == {"1": 1}
    assert (await table.get(late)).state == "queued"
    assert await table.ask("SELECT 1 FROM workers") == []
    assert "Traceback" not in worker.output
    messages = [json.loads(line)["message"] for line in worker.output.splitlines()]
    assert "worker: Warm shutdown (MainProcess)" in messages, "what Celery prints is a line of the log, too"


async def test_sigkill_during_a_call_is_rescued(
    start: Start, table: Table, doorbell: Doorbell, simulator: RunningSimulator
) -> None:
    doomed, beat = start(WORKER, WORKER_NAME="doomed"), start(BEAT)
    job_id = await table.add("[[sim:fault=stall:60;times=1]]")
    await ready(table)
    await ring(doorbell, job_id)
    async with asyncio.timeout(PATIENCE):
        while not attempts_called(simulator, job_id):
            await asyncio.sleep(0.02)
    doomed.kill()
    start(WORKER, WORKER_NAME="other")
    await all_final(table)
    assert (await table.get(job_id)).state == "succeeded"
    first, second = await table.attempts(job_id)
    assert (first.outcome, second.outcome) == ("unknown", "succeeded")
    assert first.worker.startswith("doomed@")
    assert second.worker.startswith("other@")
    assert first.cost_usd == first.estimated_cost_usd > 0
    assert attempts_called(simulator, job_id) == {"1": 1, "2": 1}
    beat.terminate()
    assert await asyncio.to_thread(beat.wait, 5) == 0


@pytest.mark.parametrize("how", ["kill", "stop"])
async def test_an_objection_ends_with_its_process(
    start: Start, table: Table, doorbell: Doorbell, how: str
) -> None:
    """One that stands still holds its lock until the server ends its transaction, after five seconds."""
    worker = start(WORKER)
    await ready(table)
    job_id = await table.add("[[sim:latency=30]]")
    await ring(doorbell, job_id)
    await table.until_sent(job_id)
    await refuse_renewals(table)
    await table.until(OBJECTED)
    await table.until("(SELECT lease_until < now() - interval '1 second' FROM jobs)")
    assert "leases have not been renewed" in worker.output
    beat = start(BEAT)
    await asyncio.to_thread(beat.wait_for_output, "cannot renew their leases")
    assert (await table.get(job_id)).attempt == 1
    if how == "kill":
        worker.kill()
    else:
        worker.process.send_signal(signal.SIGSTOP)
    stood = time.monotonic()
    await table.until("(SELECT state = 'queued' FROM jobs)")
    assert time.monotonic() - stood < (4 if how == "kill" else 10)


@pytest.mark.slow
async def test_rubbish_in_the_queue_stops_nobody_else(
    start: Start, table: Table, doorbell: Doorbell, broker: Redis, settings: Settings
) -> None:
    """What is no message at all ends Celery's worker; its supervisor starts it again, and the rubbish is gone."""
    worker = start(WORKER)
    ids = [await table.add(f"{n}") for n in range(8)]
    await ready(table)
    celery = make_celery(settings)
    await ring(doorbell, ids[0], uuid7())  # one that nobody knows
    celery.send_task("plantain.jobs.gone", args=("x",), queue="text.standard")
    celery.send_task("plantain.jobs.run", args=("no id",), queue="text.standard")
    celery.send_task("plantain.jobs.run", args=(), queue="text.standard")
    await ring(doorbell, *ids[1:4])
    await table.until("(SELECT count(*) FROM jobs WHERE state = 'succeeded') = 4")
    assert worker.alive, "none of these may end it"
    broker.lpush("text.standard", b"{ no JSON", b"[]", b"\xff\xfe", b'{"body": 1}')
    await ring(doorbell, *ids[4:])
    restarts, deadline = 0, time.monotonic() + 40
    while await table.ask("SELECT 1 FROM jobs WHERE finished_at IS NULL"):
        assert time.monotonic() < deadline, worker.output[-4000:]
        restarts += revive(worker)
        await asyncio.sleep(0.1)
    assert restarts <= 4, "once for each piece of rubbish at most"
    assert {row.state for row in await table.ask("SELECT state FROM jobs")} == {"succeeded"}
    celery.close()


def revive(process: Process) -> int:
    """What a supervisor does; 1 where it had to."""
    if process.alive:
        return 0
    process.start_again()
    return 1


async def test_a_flushed_broker_loses_no_job(
    start: Start, table: Table, doorbell: Doorbell, broker: Redis, simulator: RunningSimulator
) -> None:
    ids = [await table.add(f"{n}") for n in range(50)]
    await ring(doorbell, *ids)
    assert broker.llen("text.standard") == 50
    start(WORKER)
    start(BEAT)
    broker.flushall()
    await ready(table)
    await all_final(table)
    for job_id in ids:
        assert (await table.get(job_id)).state == "succeeded"
        assert attempts_called(simulator, job_id) == {"1": 1}
    # And a worker that was connected when it happened goes on with what comes after.
    broker.flushall()
    late = await table.add("late")
    await ring(doorbell, late)
    await all_final(table)


async def test_slots_are_filled_again_at_once(start: Start, table: Table, doorbell: Doorbell) -> None:
    """With ``worker_disable_prefetch`` Celery by itself looks for a free slot about once a second: 20 s here."""
    start(WORKER, WORKER_CONCURRENCY="2")
    ids = [await table.add("[[sim:latency=0.05]]") for _ in range(40)]
    await ready(table)
    await ring(doorbell, *ids)
    await all_final(table)
    (times,) = await table.ask("SELECT max(finished_at) - min(started_at) AS all_of_them FROM jobs")
    assert times.all_of_them.total_seconds() < 4
    assert {row.n for row in await table.ask("SELECT count(*) AS n FROM attempts GROUP BY job_id")} == {1}


async def test_queues_are_served_by_priority(start: Start, table: Table, doorbell: Doorbell) -> None:
    ids: dict[str, list[UUID]] = {}
    for queue in reversed(ALL_QUEUES):  # the least urgent first
        ids[queue] = [await table.add(queue=queue) for _ in range(3)]
        await ring(doorbell, *ids[queue], queue=queue)
    start(WORKER, WORKER_CONCURRENCY="1")
    await ready(table)
    await all_final(table)
    rows = await table.ask("SELECT queue FROM jobs ORDER BY started_at")
    ranks = [row.queue.rpartition(".")[2] for row in rows]
    assert ranks == ["interactive"] * 6 + ["standard"] * 6 + ["batch"] * 6
    # Within a priority, kinds take turns: pictures do not wait for all texts, nor the other way round.
    interactive = [row.queue for row in rows[:6]]
    assert interactive != sorted(interactive)
    assert interactive != sorted(interactive, reverse=True)


async def test_a_jobs_id_is_its_tasks_id(
    start: Start, table: Table, doorbell: Doorbell, settings: Settings
) -> None:
    """So that Flower shows a job under the name that the client knows."""
    start(WORKER)
    job_id = await table.add("[[sim:latency=5]]")
    await ready(table)
    await ring(doorbell, job_id)
    await table.until_sent(job_id)
    celery = make_celery(settings)
    active = await asyncio.to_thread(lambda: celery.control.inspect(timeout=3, limit=1).active())
    celery.close()
    ((task,),) = active.values()
    assert (task["id"], task["name"], task["args"]) == (str(job_id), "plantain.jobs.run", [str(job_id)])
