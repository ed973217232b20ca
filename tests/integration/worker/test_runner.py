"""Attempts against the real database and the simulator as a process: what is called, written and paid."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from decimal import Decimal
from hashlib import sha256
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection
from uuid_utils.compat import uuid7

from scripts.embedded import EmbeddedPostgres
from shared import storage
from shared.gates import queries as gates
from shared.jobs import queries
from shared.jobs.status import State
from shared.providers.base import Call, Generation, ImageBytes, RateLimitedError, Usage
from tests import factories
from tests.contract.conftest import RunningSimulator
from tests.integration.worker.conftest import (
    OBJECTED,
    Scripted,
    Table,
    Worker,
    Workers,
    refuse_renewals,
    said,
)
from tests.patience import PATIENCE, until
from worker.maintenance import Maintenance
from worker.recorder import Recorder


def calls(simulator: RunningSimulator, job_id: UUID) -> dict[str, int]:
    """How often each attempt reached the provider."""
    by_job: dict[str, dict[str, int]] = simulator.calls(str(job_id))["by_job"]
    return by_job.get(str(job_id), {})


class TestSuccess:
    async def test_text(self, worker: Worker, table: Table, simulator: RunningSimulator) -> None:
        job_id = await table.add("Write a haiku.")
        assert await worker.run(job_id) == "succeeded"
        job, (attempt,) = await table.get(job_id), await table.attempts(job_id)
        assert job.result["text"].startswith("[SIMULATED")
        assert (job.provider, job.upstream_model) == ("simulator", "gemini-3.8-flash")
        assert job.model_version.startswith("gemini-3.8-flash")
        assert job.usage["output_tokens"] > 0
        assert job.cost_usd == attempt.cost_usd > 0
        assert (attempt.outcome, attempt.worker) == ("succeeded", "w")
        assert attempt.claimed_at <= attempt.sent_at <= attempt.answered_at
        assert attempt.estimated_cost_usd > 0
        assert await table.events(job_id) == ["job.queued", "job.running", "job.succeeded"]
        assert calls(simulator, job_id) == {"1": 1}

    async def test_pictures_and_their_bytes(self, worker: Worker, table: Table) -> None:
        job_id = await table.add_image()
        assert await worker.run(job_id) == "succeeded"
        (entry,) = (await table.get(job_id)).result["images"]
        (row,) = await table.ask("SELECT * FROM artifacts WHERE job_id = :id", id=job_id)
        assert (str(row.id), row.role, row.position) == (entry["artifact_id"], "output", 0)
        assert (row.width, row.height) == (entry["width"], entry["height"])
        assert row.width > row.height, "16:9 was asked for"
        async with table.database.transaction() as db:
            data = await storage.read_all(db, row.id)
        assert len(data) == row.byte_size == entry["byte_size"]
        assert sha256(data).hexdigest() == row.sha256.hex() == entry["sha256"]
        assert data.startswith(b"\x89PNG")

    async def test_an_input_picture_reaches_the_provider(
        self, worker: Worker, table: Table, simulator: RunningSimulator
    ) -> None:
        first = await table.add_image()
        await worker.run(first)
        job_id = await table.add_image("make it blue")
        await table.run(
            "INSERT INTO artifacts (id, project_id, job_id, role, position, media_type, byte_size, sha256, width, height) "
            "SELECT :new, project_id, :job, 'input', 0, media_type, byte_size, sha256, width, height "
            "FROM artifacts WHERE job_id = :first",
            new=UUID(int=1),
            job=job_id,
            first=first,
        )
        await table.run(
            "INSERT INTO artifact_bytes SELECT :new, project_id, data FROM artifact_bytes", new=UUID(int=1)
        )
        assert await worker.run(job_id) == "succeeded"
        body = str(simulator.last_request(str(job_id)))
        assert "make it blue" in body
        assert "image/png" in body

    async def test_many_at_once(self, worker: Worker, table: Table, simulator: RunningSimulator) -> None:
        ids = [await table.add(f"{n}") for n in range(20)] + [await table.add_image() for _ in range(5)]
        # Every message twice, as a broker may deliver them.
        states = await asyncio.gather(*(worker.run(job_id) for job_id in ids + ids))
        assert sorted(states) == ["nothing to do"] * 25 + ["succeeded"] * 25
        assert all(calls(simulator, job_id) == {"1": 1} for job_id in ids)
        assert len(worker.flights) == 0


class TestMessageAhead:
    """A lone submit rings while its job is being stored, so its message may come first."""

    async def test_the_job_comes_later(
        self, worker: Worker, table: Table, simulator: RunningSimulator
    ) -> None:
        job_id = uuid7()
        running = asyncio.create_task(worker.run(job_id))
        await asyncio.sleep(0.05)
        assert not running.done()
        await table.add(id=job_id)
        assert await running == "succeeded"
        job = await table.get(job_id)
        assert (job.started_at - job.created_at).total_seconds() < 1.5
        assert calls(simulator, job_id) == {"1": 1}

    async def test_it_comes_while_it_is_looked_for(
        self, worker: Worker, table: Table, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """On an idle machine storing takes about as long as a look: whoever waited then would wait for nothing."""
        monkeypatch.setattr("worker.runner._LOOK_SECONDS", (PATIENCE, PATIENCE))
        left, job_id = queries.left, uuid7()

        async def stored_meanwhile(*given: Any) -> Any:
            await table.add(id=job_id)
            monkeypatch.setattr(queries, "left", left)
            return await left(*given) or {job_id: False}

        monkeypatch.setattr(queries, "left", stored_meanwhile)
        asked = time.monotonic()
        assert await worker.run(job_id) == "succeeded"
        assert time.monotonic() - asked < PATIENCE

    async def test_two_workers_heard_of_it(
        self, workers: Workers, table: Table, simulator: RunningSimulator
    ) -> None:
        job_id = uuid7()
        async with workers(name="a") as first, workers(name="b") as second:
            running = asyncio.gather(first.run(job_id), second.run(job_id), first.run(job_id))
            await asyncio.sleep(0.05)
            await table.add(id=job_id)
            assert sorted(await running) == ["nothing to do", "nothing to do", "succeeded"]
        assert calls(simulator, job_id) == {"1": 1}

    async def test_the_job_comes_later_and_waits_at_a_gate(self, worker: Worker, table: Table) -> None:
        async with table.database.transaction() as db:
            await gates.pause(
                db,
                "gemini-flash",
                seconds=60,
                exact=True,
                longest=60,
                reason="rate_limited",
                learned_rpm=None,
            )
        job_id = uuid7()
        running = asyncio.create_task(worker.run(job_id))
        await asyncio.sleep(0.05)
        await table.add(id=job_id)
        assert await running == "nothing to do"
        assert (await table.get(job_id)).waiting_reason == "rate_limited"

    async def test_the_job_never_comes(self, worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("worker.runner.AHEAD_SECONDS", 0.1)
        asked = time.monotonic()
        assert await worker.run(uuid7()) == "nothing to do"
        assert 0.1 <= time.monotonic() - asked < 1.9

    async def test_after_one_that_never_came_most_slots_are_left_to_jobs_that_are_there(
        self, workers: Workers, table: Table, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Messages of jobs that were deleted as soon as they were made: thousands of them must not stop the work."""
        async with workers(worker_concurrency=8) as worker:
            with monkeypatch.context() as soon:
                soon.setattr("worker.runner.AHEAD_SECONDS", 0.1)
                await asyncio.gather(*(worker.run(uuid7()) for _ in range(8)))
            ghosts = [asyncio.create_task(worker.run(uuid7())) for _ in range(50)]
            await until(lambda: sum(not ghost.done() for ghost in ghosts) <= 2)
            assert not all(ghost.done() for ghost in ghosts)
            assert await worker.run(await table.add()) == "succeeded"
            # One that comes a moment later, as after almost every submit, is waited for all the same; on a machine with
            # little time to spare, a moment is longer.
            monkeypatch.setattr("worker.runner._BRIEF_SECONDS", 1.0)
            job_id = uuid7()
            running = asyncio.create_task(worker.run(job_id))
            await table.add(id=job_id)
            assert await running == "succeeded"
            assert set(await asyncio.gather(*ghosts)) == {"nothing to do"}

    async def test_one_from_before_a_restore_is_not_waited_for(self, worker: Worker) -> None:
        asked = time.monotonic()
        old = uuid7(nanoseconds=time.time_ns() - 301 * 10**9)
        assert await worker.run(old) == "nothing to do"
        assert time.monotonic() - asked < 1.9
        assert worker.runner._doubts_until == 0

    async def test_a_database_that_takes_its_time_lengthens_no_wait(
        self, worker: Worker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Or slots are held for longest when they are needed most."""
        left = queries.left

        async def slow(*given: Any) -> Any:
            await asyncio.sleep(0.5)
            return await left(*given)

        monkeypatch.setattr(queries, "left", slow)
        asked = time.monotonic()
        assert await worker.run(uuid7()) == "nothing to do"
        assert time.monotonic() - asked < 5, "fourteen looks of half a second each"

    async def test_every_slot_may_wait(self, workers: Workers, table: Table) -> None:
        """A message that was not waited for is missed until beat sends it again."""
        async with workers(worker_concurrency=4) as worker:
            ids = [uuid7() for _ in range(4)]
            running = asyncio.gather(*(worker.run(job_id) for job_id in ids))
            await asyncio.sleep(0.05)
            for job_id in ids:
                await table.add(id=job_id)
            assert await running == ["succeeded"] * 4

    async def test_a_job_that_is_done_is_not_waited_for(self, worker: Worker, table: Table) -> None:
        job_id = await table.add()
        await table.cancel(job_id)
        asked = time.monotonic()
        assert await worker.run(job_id) == "nothing to do"
        assert time.monotonic() - asked < 1.9

    async def test_a_row_that_is_locked_for_a_moment(self, worker: Worker, table: Table) -> None:
        job_id = await table.add()
        async with table.database.transaction() as db:
            await db.execute(text("SELECT FROM jobs WHERE id = :id FOR UPDATE"), {"id": job_id})
            running = asyncio.create_task(worker.run(job_id))
            await asyncio.sleep(0.1)
        assert await running == "succeeded"

    async def test_a_worker_that_was_told_to_stop_leaves_it_to_another(
        self, worker: Worker, table: Table
    ) -> None:
        worker.flights.draining = True
        job_id = uuid7()
        running = asyncio.create_task(worker.run(job_id))
        await asyncio.sleep(0.05)
        await table.add(id=job_id)
        assert await running == "left to another worker"
        assert (await table.get(job_id)).published_at is None

    async def test_a_worker_that_was_told_to_stop_waits_for_none_that_is_done(
        self, worker: Worker, table: Table
    ) -> None:
        worker.flights.draining = True
        job_id = await table.add()
        await table.cancel(job_id)
        asked = time.monotonic()
        assert await worker.run(job_id) == "left to another worker"
        assert time.monotonic() - asked < 1.9


class TestErrors:
    async def test_a_retry_after_500(self, worker: Worker, table: Table, simulator: RunningSimulator) -> None:
        job_id = await table.add("[[sim:fault=500;times=1]] hello")
        assert await worker.run(job_id) == "queued"
        job, (first,) = await table.get(job_id), await table.attempts(job_id)
        assert (job.waiting_reason, job.error["code"]) == ("retry_backoff", "provider_unavailable")
        assert (first.outcome, first.counted, first.cost_usd) == ("failed", True, 0)
        assert first.answered_at is not None, "a 500 is an answer"
        assert first.provider == "simulator"
        await asyncio.sleep(0.01)
        assert await worker.run(job_id) == "succeeded"
        job, attempts = await table.get(job_id), await table.attempts(job_id)
        assert [attempt.outcome for attempt in attempts] == ["failed", "succeeded"]
        assert job.cost_usd == attempts[1].cost_usd > 0
        assert job.error is None
        assert await table.events(job_id) == [
            "job.queued",
            "job.running",
            "job.retry_scheduled",
            "job.running",
            "job.succeeded",
        ]
        assert calls(simulator, job_id) == {"1": 1, "2": 1}

    async def test_attempts_are_used_up(
        self, worker: Worker, table: Table, simulator: RunningSimulator
    ) -> None:
        job_id = await table.add("[[sim:fault=503]]", max_attempts=2)
        assert await worker.run(job_id) == "queued"
        await asyncio.sleep(0.01)
        assert await worker.run(job_id) == "failed"
        assert await worker.run(job_id) == "nothing to do"
        error = (await table.get(job_id)).error
        assert (error["code"], error["retryable"], error["provider_status"]) == (
            "provider_unavailable",
            True,
            503,
        )
        assert calls(simulator, job_id) == {"1": 1, "2": 1}

    async def test_a_rate_limit_waits_as_long_as_the_provider_says(
        self, worker: Worker, table: Table, simulator: RunningSimulator
    ) -> None:
        job_id = await table.add("[[sim:fault=429-retryinfo:0.7;times=1]]", max_attempts=1)
        assert await worker.run(job_id) == "queued"
        job, (attempt,) = await table.get(job_id), await table.attempts(job_id)
        assert (job.waiting_reason, job.snoozes, job.attempt) == ("rate_limited", 1, 1)
        assert (attempt.counted, attempt.cost_usd) == (False, 0)
        wait = job.scheduled_at - attempt.finished_at
        assert wait >= timedelta(seconds=0.7)
        assert wait < timedelta(seconds=2)
        assert await worker.run(job_id) == "nothing to do", "its time has not come"
        await asyncio.sleep(wait.total_seconds())
        assert await worker.run(job_id) == "succeeded"
        assert calls(simulator, job_id) == {"1": 1, "2": 1}

    @pytest.mark.parametrize(
        ("fault", "code"),
        [
            ("400", "invalid_request"),
            ("403", "permission_denied"),
            ("404", "model_not_found"),
            ("safety", "safety_blocked"),
        ],
    )
    async def test_permanent_errors(
        self, worker: Worker, table: Table, simulator: RunningSimulator, fault: str, code: str
    ) -> None:
        job_id = await table.add(f"[[sim:fault={fault}]]")
        assert await worker.run(job_id) == "failed"
        job, (attempt,) = await table.get(job_id), await table.attempts(job_id)
        assert (job.error["code"], job.error["retryable"]) == (code, False)
        assert attempt.answered_at is not None
        assert await table.events(job_id) == ["job.queued", "job.running", "job.failed"]
        assert calls(simulator, job_id) == {"1": 1}

    @pytest.mark.parametrize("policy", ["retry", "fail"])
    async def test_an_unknown_outcome_follows_the_policy(
        self, worker: Worker, table: Table, simulator: RunningSimulator, policy: str
    ) -> None:
        job_id = await table.add("[[sim:fault=reset;times=1]]", on_unknown=policy)
        assert await worker.run(job_id) == ("queued" if policy == "retry" else "failed")
        job, (attempt,) = await table.get(job_id), await table.attempts(job_id)
        assert (attempt.outcome, job.error["code"]) == ("unknown", "connection_lost")
        assert job.cost_usd == attempt.cost_usd == attempt.estimated_cost_usd > 0
        assert attempt.answered_at is None
        await asyncio.sleep(0.01)
        again = await worker.run(job_id)
        assert again == ("succeeded" if policy == "retry" else "nothing to do")
        assert len(calls(simulator, job_id)) == (2 if policy == "retry" else 1)

    async def test_a_timeout_is_an_unknown_outcome(self, worker: Worker, table: Table) -> None:
        job_id = await table.add("[[sim:latency=30]]", timeout_seconds=0.5, on_unknown="fail")
        started = time.monotonic()
        assert await worker.run(job_id) == "failed"
        assert time.monotonic() - started < 15
        assert (await table.get(job_id)).error["code"] == "timeout"
        assert (await table.attempts(job_id))[0].outcome == "unknown"

    async def test_a_driver_without_a_deadline_has_one(
        self, workers: Workers, table: Table, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("worker.runner._DRIVER_GRACE_SECONDS", 0.1)
        driver = Scripted(lambda _: asyncio.sleep(60))
        job_id = await table.add(timeout_seconds=0.1)
        async with workers(driver) as worker:
            assert await worker.run(job_id) == "queued"
        assert (await table.attempts(job_id))[0].outcome == "unknown"

    async def test_a_drivers_bug_is_an_unknown_outcome(self, workers: Workers, table: Table) -> None:
        def fail(_: Call) -> Generation:
            raise ZeroDivisionError

        job_id = await table.add(on_unknown="fail")
        async with workers(Scripted(fail)) as worker:
            assert await worker.run(job_id) == "failed"
        assert (await table.get(job_id)).error["code"] == "internal_error"

    @pytest.mark.parametrize("columns", [{"model": "gone"}, {"kind": "gone"}, {"input": {}}])
    async def test_what_no_worker_knows_fails_in_the_end(
        self, worker: Worker, table: Table, columns: dict[str, Any]
    ) -> None:
        """A worker of an older version may not know it, so it is tried again; but not for ever."""
        job_id = await table.add(max_attempts=3, **columns)
        states = []
        for _ in range(5):
            states.append(await worker.run(job_id))
            await asyncio.sleep(0.005)
        assert states == ["queued", "queued", "failed", "nothing to do", "nothing to do"]
        assert (await table.get(job_id)).error["code"] == "internal_error"
        assert all(attempt.sent_at is None for attempt in await table.attempts(job_id))


class TestNotes:
    """That a call goes out is noted before it does: by the claim, or apart."""

    @pytest.mark.parametrize(("on_unknown", "notes"), [("retry", 0), ("fail", 1)])
    async def test_the_claim_is_the_note_unless_the_policy_is_strict(
        self, worker: Worker, table: Table, monkeypatch: pytest.MonkeyPatch, on_unknown: str, notes: int
    ) -> None:
        written = count_notes(monkeypatch)
        job_id = await table.add(on_unknown=on_unknown)
        assert await worker.run(job_id) == "succeeded"
        (attempt,) = await table.attempts(job_id)
        assert attempt.claimed_at <= attempt.sent_at <= attempt.answered_at
        assert attempt.estimated_cost_usd > 0
        assert len(written) == notes

    async def test_a_worker_that_stood_still_after_its_claim_asks_again(
        self, workers: Workers, table: Table, maintenance: Maintenance, simulator: RunningSimulator
    ) -> None:
        """Its lease has run out and another has the job: the claim's note holds no longer."""
        job_id = await table.add()
        async with workers(keep=False) as worker:
            prepare = worker.runner._prepare

            async def after_a_standstill(flight: Any, row: Any) -> Any:
                await asyncio.sleep(0.6)  # beyond a quarter of the lease
                await table.run("UPDATE jobs SET lease_until = now() - interval '1 second'")
                assert await maintenance.rescue() == 1
                return await prepare(flight, row)

            worker.runner._prepare = after_a_standstill  # type: ignore[method-assign]
            assert await worker.run(job_id) == "no longer ours"
        assert calls(simulator, job_id) == {}

    async def test_one_that_was_lost_with_its_claim_costs_what_it_may_have(
        self, workers: Workers, table: Table, maintenance: Maintenance
    ) -> None:
        """Nobody has worked out an estimate by then: the rescue does."""
        job_id = await table.add("a prompt of some words " * 10)
        async with workers(keep=False) as worker:
            gone = asyncio.Event()
            worker.runner._prepare = lambda *_: gone.wait()  # type: ignore[method-assign,assignment]
            run = asyncio.create_task(worker.run(job_id))
            await table.until_sent(job_id)
            run.cancel()
            await asyncio.gather(run, return_exceptions=True)
        await table.run("UPDATE jobs SET lease_until = now() - interval '1 second'")
        assert await maintenance.rescue() == 1
        job, (attempt,) = await table.get(job_id), await table.attempts(job_id)
        assert (job.state, attempt.outcome) == ("queued", "unknown")
        assert job.cost_usd == attempt.cost_usd == attempt.estimated_cost_usd > 0

    async def test_a_lost_call_to_a_model_that_is_gone_is_rescued_all_the_same(
        self, workers: Workers, table: Table, maintenance: Maintenance
    ) -> None:
        job_id = await table.add()
        async with table.database.transaction() as db:
            await queries.claim(db, [job_id], worker="gone", lease=2, grace=1, noted=["text.generate"])
        await table.run("UPDATE jobs SET lease_until = now() - interval '1 second', model = 'gone'")
        assert await maintenance.rescue() == 1
        (attempt,) = await table.attempts(job_id)
        assert (attempt.outcome, attempt.cost_usd) == ("unknown", 0)


def count_notes(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every batch of notes that is written from now on."""
    mark_sent, written = queries.mark_sent, []

    async def counted(db: Any, rows: Any) -> Any:
        written.append(rows)
        return await mark_sent(db, rows)

    monkeypatch.setattr("shared.jobs.queries.mark_sent", counted)
    return written


class TestHostileAnswers:
    async def test_text_is_stored_clean(self, workers: Workers, table: Table) -> None:
        hostile = "a\x00b\ud800c"
        answer = said(hostile, model_version=hostile, upstream_request_id=hostile, finish_reason=hostile)
        job_id = await table.add()
        async with workers(Scripted(lambda _: answer)) as worker:
            assert await worker.run(job_id) == "succeeded"
        job, (attempt,) = await table.get(job_id), await table.attempts(job_id)
        told = {
            job.result["text"],
            job.result["finish_reason"],
            job.model_version,
            attempt.upstream_request_id,
        }
        assert told == {"a\ufffdb?c"}

    @pytest.mark.parametrize("depth", [300, 900, 100_000])
    async def test_json_too_deep_to_store_fails_once(
        self, workers: Workers, table: Table, depth: int
    ) -> None:
        """Deeper than the writer of JSON goes, than Python's stack, than the reader of JSON."""
        driver = Scripted(lambda _: said("[" * depth + "]" * depth))
        job_id = await table.add(shape={"response_schema": {"type": "array"}})
        async with workers(driver) as worker:
            ended = await worker.run(job_id)
            assert await worker.run(job_id) == "nothing to do", "it was paid for: not again"
        job, (attempt,) = await table.get(job_id), await table.attempts(job_id)
        assert len(driver.calls) == 1
        assert job.cost_usd > 0
        assert attempt.answered_at is not None
        if ended != "succeeded":  # as text, which is what is left of JSON that cannot be read
            assert (ended, job.error["code"]) == ("failed", "internal_error")

    async def test_one_that_cannot_be_stored_takes_no_other_along(
        self, workers: Workers, table: Table
    ) -> None:
        deep = await table.add(shape={"response_schema": {"type": "array"}})
        others = [await table.add() for _ in range(10)]

        def act(call: Call) -> Generation:
            return said("[" * 300 + "]" * 300) if call.job_id == deep else said("fine")

        async with workers(Scripted(act)) as worker:
            states = await asyncio.gather(*(worker.run(job_id) for job_id in [deep, *others]))
        assert states == ["failed"] + ["succeeded"] * 10

    async def test_an_absurd_bill_loses_no_result(self, workers: Workers, table: Table) -> None:
        answer = said("fine", usage=Usage(10**17, 10**17), cost_usd=Decimal(10) ** 15)
        job_id = await table.add()
        async with workers(Scripted(lambda _: answer)) as worker:
            assert await worker.run(job_id) == "succeeded"

    async def test_an_endless_rate_limit_is_no_busy_loop(self, workers: Workers, table: Table) -> None:
        def limited(_: Call) -> Generation:
            raise RateLimitedError("slow down", delay=0.0, status=429)

        job_id = await table.add()
        async with workers(Scripted(limited)) as worker:
            assert await worker.run(job_id) == "queued"
            assert await worker.run(job_id) == "nothing to do"


class TestCancel:
    async def test_it_ends_the_call_within_a_second(
        self, worker: Worker, table: Table, simulator: RunningSimulator
    ) -> None:
        job_id = await table.add("[[sim:latency=30]]")
        run = asyncio.create_task(worker.run(job_id))
        await table.until_sent(job_id)
        started = time.monotonic()
        await table.cancel(job_id)
        await worker.wakeups.cancel_requested(job_id)
        assert await run == "cancelled"
        assert time.monotonic() - started < 1
        (attempt,) = await table.attempts(job_id)
        assert (attempt.outcome, attempt.cost_usd) == ("cancelled", attempt.estimated_cost_usd)
        assert (await table.events(job_id))[-2:] == ["job.cancel_requested", "job.cancelled"]
        (event,) = await table.ask("SELECT data FROM job_events WHERE type = 'job.cancelled'")
        assert event.data["provider_called"] is True
        assert calls(simulator, job_id) == {"1": 1}

    async def test_without_a_wake_up_the_next_renewal_tells(self, worker: Worker, table: Table) -> None:
        job_id = await table.add("[[sim:latency=30]]")
        run = asyncio.create_task(worker.run(job_id))
        await table.until_sent(job_id)
        await table.cancel(job_id)
        async with asyncio.timeout(PATIENCE / 2):
            assert await run == "cancelled"

    @pytest.mark.parametrize("on_unknown", ["fail", "retry"])
    async def test_before_the_call_there_is_none(
        self, workers: Workers, table: Table, simulator: RunningSimulator, on_unknown: str
    ) -> None:
        """The note that it is sent finds the cancel; where the claim was that note, the wake-up has told of it."""
        job_id = await table.add(on_unknown=on_unknown)
        async with workers(keep=False) as worker:
            prepare = worker.runner._prepare

            async def cancelled_meanwhile(flight: Any, row: Any) -> Any:
                await table.cancel(job_id)
                if row.noted:
                    await worker.flights.wake(job_id)
                return await prepare(flight, row)

            worker.runner._prepare = cancelled_meanwhile  # type: ignore[method-assign]
            assert await worker.run(job_id) == "cancelled"
        (attempt,) = await table.attempts(job_id)
        assert (attempt.sent_at, attempt.cost_usd) == (None, 0)
        (event,) = await table.ask("SELECT data FROM job_events WHERE type = 'job.cancelled'")
        assert event.data["provider_called"] is False
        assert calls(simulator, job_id) == {}

    async def test_racing_the_answer_there_is_one_end(self, worker: Worker, table: Table) -> None:
        for n in range(10):
            job_id = await table.add("[[sim:latency=0.02]]")
            run = asyncio.create_task(worker.run(job_id))
            await asyncio.sleep(n * 0.006)
            await table.cancel(job_id)
            await worker.wakeups.cancel_requested(job_id)
            assert await run in {"succeeded", "cancelled", "nothing to do"}
            final = [
                event for event in await table.events(job_id) if event in {"job.succeeded", "job.cancelled"}
            ]
            assert len(final) == 1

    async def test_the_listener_survives_a_wake_up_that_fails(
        self, workers: Workers, table: Table, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The database may be away at that moment; the next cancel must be heard all the same."""
        async with workers(lease_renew_seconds=0.9) as worker:
            job_id = await table.add("[[sim:latency=30]]")
            run = asyncio.create_task(worker.run(job_id))
            await table.until_sent(job_id)
            renew, failures = worker.flights.renew, iter([RuntimeError("boo")])

            async def fail_once(flights: Any) -> None:
                for failure in failures:
                    raise failure
                await renew(flights)

            monkeypatch.setattr(worker.flights, "renew", fail_once)
            await worker.wakeups.redis.publish("plantain:cancel", "no id at all")
            await worker.wakeups.cancel_requested(job_id)
            await asyncio.sleep(0.1)
            started = time.monotonic()
            await table.cancel(job_id)
            await worker.wakeups.cancel_requested(job_id)
            assert await run == "cancelled"
            assert time.monotonic() - started < 0.5


class TestLeases:
    async def test_they_are_kept_during_a_long_call(
        self, worker: Worker, table: Table, maintenance: Maintenance
    ) -> None:
        job_id = await table.add("[[sim:latency=3]]")
        run = asyncio.create_task(worker.run(job_id))
        while not run.done():
            assert await maintenance.rescue() == 0
            await asyncio.sleep(0.1)
        assert await run == "succeeded"

    async def test_a_fenced_worker_writes_nothing(
        self, workers: Workers, table: Table, maintenance: Maintenance, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It slept past its lease with a picture in its hands; another attempt made one meanwhile."""
        picture = ImageBytes(b"\x89PNG stale", "image/png", 1, 1)
        gate = asyncio.Event()

        async def stale(_: Call) -> Generation:
            await gate.wait()
            return Generation(None, [picture], "stop", Usage(1, 1))

        job_id = await table.add_image()
        async with workers(Scripted(stale), name="stale", keep=False) as slow, workers(name="other") as other:
            run = asyncio.create_task(slow.run(job_id))
            await table.until_sent(job_id)
            await table.run("UPDATE jobs SET lease_until = now() - interval '1 second'")
            assert await maintenance.rescue() == 1
            await asyncio.sleep(0.01)
            assert await other.run(job_id) == "succeeded"
            before = await table.get(job_id)
            gate.set()
            assert await run == "no longer ours"
        assert await table.get(job_id) == before
        assert [a.outcome for a in await table.attempts(job_id)] == ["unknown", "succeeded"]
        artifacts = await table.ask("SELECT id FROM artifacts")
        assert [str(row.id) for row in artifacts] == [before.result["images"][0]["artifact_id"]]
        assert len(await table.ask("SELECT 1 FROM artifact_bytes")) == 1
        assert [each.message for each in caplog.records if each.levelname == "ERROR"] == []

    async def test_a_fenced_call_is_stopped_by_the_next_renewal(
        self, workers: Workers, table: Table, maintenance: Maintenance
    ) -> None:
        job_id = await table.add("[[sim:latency=30]]")
        async with workers(lease_renew_seconds=0.3) as worker:
            run = asyncio.create_task(worker.run(job_id))
            await table.until_sent(job_id)
            await table.run("UPDATE jobs SET lease_until = now() - interval '1 second'")
            assert await maintenance.rescue() == 1
            async with asyncio.timeout(PATIENCE / 2):
                assert await run == "no longer ours"
        assert (await table.get(job_id)).state == "queued"

    async def test_a_claim_older_than_its_lease_is_renewed_before_the_call(
        self, workers: Workers, table: Table, simulator: RunningSimulator
    ) -> None:
        """Nobody has rescued it yet, so it goes on instead of holding the job for another lease."""
        job_id = await table.add()
        async with workers(keep=False) as worker:
            prepare = worker.runner._prepare

            async def slept(flight: Any, row: Any) -> Any:
                await table.run("UPDATE jobs SET lease_until = now() - interval '1 second'")
                return await prepare(flight, row)

            worker.runner._prepare = slept  # type: ignore[method-assign]
            assert await worker.run(job_id) == "succeeded"
        assert calls(simulator, job_id) == {"1": 1}

    async def test_a_heartbeat_that_fails_ends_no_renewals(
        self, workers: Workers, table: Table, tmp_path: Any, maintenance: Maintenance
    ) -> None:
        blocked = tmp_path / "file"
        blocked.write_text("")
        await table.run("ALTER TABLE workers ADD CONSTRAINT never CHECK (false) NOT VALID")
        job_id = await table.add("[[sim:latency=3]]")
        async with workers(heartbeat_file=blocked / "below" / "it") as worker:
            run = asyncio.create_task(worker.run(job_id))
            while not run.done():
                assert await maintenance.rescue() == 0
                await asyncio.sleep(0.1)
            assert await run == "succeeded"

    async def test_a_fenced_worker_leaves_no_picture_to_the_attempt_under_way(
        self, workers: Workers, table: Table, maintenance: Maintenance
    ) -> None:
        picture = ImageBytes(b"\x89PNG", "image/png", 1, 1)
        gates = {1: asyncio.Event(), 2: asyncio.Event()}

        async def wait_for_it(call: Call) -> Generation:
            await gates[call.attempt].wait()
            return Generation(None, [picture], "stop", Usage(1, 1))

        job_id = await table.add_image()
        driver = Scripted(wait_for_it)
        async with workers(driver, name="stale", keep=False) as slow, workers(driver, name="other") as other:
            first = asyncio.create_task(slow.run(job_id))
            await table.until_sent(job_id)
            await table.run("UPDATE jobs SET lease_until = now() - interval '1 second'")
            assert await maintenance.rescue() == 1
            await asyncio.sleep(0.01)
            second = asyncio.create_task(other.run(job_id))
            await table.until("EXISTS (SELECT 1 FROM attempts WHERE number = 2 AND sent_at IS NOT NULL)")
            gates[1].set()
            assert await first == "no longer ours"
            assert await table.ask("SELECT 1 FROM artifacts") == []
            gates[2].set()
            assert await second == "succeeded"
        assert len(await table.ask("SELECT 1 FROM artifacts")) == 1

    async def test_pictures_leave_connections_to_renewals(
        self, workers: Workers, table: Table, maintenance: Maintenance, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Writing many large pictures at once must not starve what keeps them ours."""
        write, gate, writing = storage.write, asyncio.Event(), 0

        async def slowly(*arguments: Any) -> None:
            nonlocal writing
            writing += 1
            await gate.wait()
            await write(*arguments)

        monkeypatch.setattr("shared.storage.write", slowly)
        picture = ImageBytes(b"x", "image/png", 1, 1)
        driver = Scripted(lambda _: Generation(None, [picture], "stop", Usage(1, 1)))
        ids = [await table.add_image() for _ in range(20)]
        async with workers(driver) as worker:
            runs = asyncio.gather(*(worker.run(job_id) for job_id in ids))
            while writing < 3:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.3)
            async with asyncio.timeout(PATIENCE / 2):
                assert await maintenance.rescue() == 0
                await worker.flights.renew(worker.flights._all)
            gate.set()
            assert await runs == ["succeeded"] * 20


class TestObjections:
    """Some writes go well, those of renewals do not: as on a full disk, where beat has little to write itself."""

    async def begin(self, table: Table, worker: Worker, seconds: float) -> asyncio.Task[str]:
        """A call under way whose lease cannot be renewed."""
        job_id = await table.add(f"[[sim:latency={seconds}]]")
        run = asyncio.create_task(worker.run(job_id))
        await table.until_sent(job_id)
        await refuse_renewals(table)
        return run

    async def test_what_cannot_be_renewed_is_not_taken_for_lost(
        self, worker: Worker, table: Table, maintenance: Maintenance
    ) -> None:
        """For longer than a transaction may be idle."""
        run = await self.begin(table, worker, 8)
        while not run.done():
            assert await maintenance.rescue() == 0
            await asyncio.sleep(0.1)
        assert await run == "succeeded"
        [job] = await table.ask("SELECT attempt, now() - started_at AS took FROM jobs")
        assert job.attempt == 1
        assert job.took > timedelta(seconds=8)

    async def test_it_is_for_this_workers_jobs_and_ends_with_the_first_renewal(
        self, worker: Worker, table: Table, maintenance: Maintenance
    ) -> None:
        lost = await factories.job(table.database, table.project_id, state=State.RUNNING)
        await table.run("UPDATE jobs SET lease_until = now() - interval '1 second'")
        run = await self.begin(table, worker, 5)
        await table.until(OBJECTED)
        assert await maintenance.rescue() == 1
        assert (await table.get(lost.id)).state == "queued"
        await table.run("DROP TRIGGER refuse ON jobs")
        await table.until(f"NOT {OBJECTED}")
        assert not run.done()
        run.cancel()

    async def test_a_connection_that_is_lost_is_made_again_before_beat_forgets(
        self, worker: Worker, table: Table, maintenance: Maintenance
    ) -> None:
        run = await self.begin(table, worker, 4)
        await table.until(OBJECTED)
        while not run.done():
            assert await maintenance.rescue() == 0
            # Nobody else leaves a transaction open.
            await table.run(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
                "AND state = 'idle in transaction' AND pid <> pg_backend_pid()"
            )
            assert await maintenance.rescue() == 0
            await asyncio.sleep(0.3)
        assert await run == "succeeded"

    async def test_it_ends_with_its_worker(
        self, workers: Workers, table: Table, maintenance: Maintenance
    ) -> None:
        async with workers() as worker:
            run = await self.begin(table, worker, 60)
            await table.until(OBJECTED)
            assert await maintenance.rescue() == 0
        run.cancel()
        await table.until("EXISTS (SELECT 1 FROM jobs WHERE lease_until < now())")
        await asyncio.sleep(0.6)  # two renewals
        assert await maintenance.rescue() == 1

    async def test_many_may_object_and_each_is_known(self, table: Table) -> None:
        names = [f"worker-{number}" for number in range(8)]
        async with table.database.direct.apart() as db:
            for name in names:
                await queries.object_to_rescue(db, name)
            keys = await table.ask(
                "SELECT hashtext(n) AS key FROM unnest(CAST(:names AS text[])) n", names=names
            )
            async with table.database.reading() as other:
                found = await queries.objections(other)
        assert sorted(found) == sorted(row.key for row in keys)
        assert min(found) < 0 < max(found)

    async def test_what_somebody_holds_is_not_renewed(self, worker: Worker, table: Table) -> None:
        """A try to record that fails has the row for a moment, and leaves it with an old lease."""
        job_id = await table.add("[[sim:latency=3]]")
        run = asyncio.create_task(worker.run(job_id))
        await table.until_sent(job_id)
        async with table.database.transaction() as db:
            await db.execute(text("SELECT 1 FROM jobs FOR UPDATE"))
            await asyncio.sleep(1.5)
            assert worker.flights.overdue > 1
            assert (await db.execute(text(f"SELECT {OBJECTED}"))).scalar_one()
        await table.until(f"NOT {OBJECTED}")
        assert worker.flights.overdue < 1
        assert await run == "succeeded"


class TestWithoutDatabase:
    async def restart(self, table: Table, postgres: EmbeddedPostgres) -> None:
        # The test server commits without waiting for its disk: one commit that does wait brings the others along.
        async with table.database.transaction() as db:
            await db.execute(text("SET LOCAL synchronous_commit = on"))
            await db.execute(text("UPDATE projects SET name = name"))
        await asyncio.to_thread(postgres.kill)
        await asyncio.sleep(0.5)
        await asyncio.to_thread(postgres.start)

    async def test_a_restart_during_the_call_loses_no_answer(
        self, worker: Worker, table: Table, simulator: RunningSimulator, postgres: EmbeddedPostgres
    ) -> None:
        ids = [await table.add("[[sim:latency=1]]") for _ in range(5)]
        pictures = [await table.add_image("[[sim:latency=1]]") for _ in range(2)]
        runs = [asyncio.create_task(worker.run(job_id)) for job_id in ids + pictures]
        for job_id in ids + pictures:
            await table.until_sent(job_id)
        await self.restart(table, postgres)
        assert await asyncio.gather(*runs) == ["succeeded"] * 7
        for job_id in ids + pictures:
            assert calls(simulator, job_id) == {"1": 1}
            assert len(await table.attempts(job_id)) == 1
        assert len(await table.ask("SELECT 1 FROM artifact_bytes")) == 2

    async def test_messages_are_held_and_not_thrown_away(
        self, workers: Workers, table: Table, postgres: EmbeddedPostgres, simulator: RunningSimulator
    ) -> None:
        """Or a worker would empty the queue while the database is away, and every job wait to be told of again."""
        text_job, picture_job = await table.add(), await table.add_image()
        async with workers() as worker:
            await asyncio.to_thread(postgres.stop)
            runs = [asyncio.create_task(worker.run(job_id)) for job_id in (text_job, picture_job)]
            await asyncio.sleep(1)
            assert not any(run.done() for run in runs)
            await asyncio.to_thread(postgres.start)
            assert await asyncio.gather(*runs) == ["succeeded", "succeeded"]
        assert calls(simulator, text_job) == {"1": 1}

    async def test_a_worker_that_is_to_stop_does_not_wait_for_it(
        self, workers: Workers, table: Table, postgres: EmbeddedPostgres
    ) -> None:
        job_id = await table.add()
        async with workers() as worker:
            await asyncio.to_thread(postgres.stop)
            run = asyncio.create_task(worker.run(job_id))
            await asyncio.sleep(0.3)
            worker.flights.draining = True
            with pytest.raises(Exception, match="connection"):
                async with asyncio.timeout(PATIENCE):
                    await run
            await asyncio.to_thread(postgres.start)

    async def test_a_restart_between_claim_and_call(
        self, workers: Workers, table: Table, postgres: EmbeddedPostgres
    ) -> None:
        """Nothing was sent, so this very attempt goes on."""
        driver = Scripted(lambda _: said("fine"))
        job_id = await table.add()
        async with workers(driver) as worker:
            prepare = worker.runner._prepare

            async def restarted_meanwhile(flight: Any, row: Any) -> Any:
                await self.restart(table, postgres)
                return await prepare(flight, row)

            worker.runner._prepare = restarted_meanwhile  # type: ignore[method-assign]
            assert await worker.run(job_id) == "succeeded"
        assert [attempt.outcome for attempt in await table.attempts(job_id)] == ["succeeded"]

    async def test_a_restart_while_a_picture_is_written(
        self, workers: Workers, table: Table, postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """psycopg itself writes the bytes, and its errors are not SQLAlchemy's."""
        write, restarts = storage.write, iter([postgres])

        async def interrupted(*arguments: Any) -> None:
            for server in restarts:
                await self.restart(table, server)
            await write(*arguments)

        monkeypatch.setattr("shared.storage.write", interrupted)
        picture = ImageBytes(b"\x89PNG", "image/png", 1, 1)
        driver = Scripted(lambda _: Generation(None, [picture], "stop", Usage(1, 1)))
        job_id = await table.add_image()
        async with workers(driver) as worker:
            assert await worker.run(job_id) == "succeeded"
        assert len(driver.calls) == 1
        assert len(await table.ask("SELECT 1 FROM artifact_bytes")) == 1

    async def test_a_picture_that_takes_too_long_to_write_is_written_again(
        self, workers: Workers, table: Table, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """psycopg's own error, which no rollback hides behind one of SQLAlchemy's."""
        write, delays = storage.write, iter(["SELECT pg_sleep(5)"])

        async def slow_once(db: AsyncConnection, *arguments: Any) -> None:
            for delay in delays:
                cursor = await storage._cursor(db)
                await cursor.execute("SET LOCAL statement_timeout = 50")
                await cursor.execute(delay)
            await write(db, *arguments)

        monkeypatch.setattr("shared.storage.write", slow_once)
        picture = ImageBytes(b"\x89PNG", "image/png", 1, 1)
        driver = Scripted(lambda _: Generation(None, [picture], "stop", Usage(1, 1)))
        job_id = await table.add_image()
        async with workers(driver) as worker:
            assert await worker.run(job_id) == "succeeded"
        assert len(driver.calls) == 1


@pytest.mark.parametrize("renew_seconds", [5.0, 0.02])
class TestACommitWhoseAnswerWasLost:
    """Tried again, or looked at by a renewal first, the job is final: by this attempt, and not by another."""

    async def test_text(
        self,
        workers: Workers,
        table: Table,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        renew_seconds: float,
    ) -> None:
        finish, tries = queries.finish, 0

        async def cut_once(*arguments: Any) -> Any:
            nonlocal tries
            tries += 1
            done = await finish(*arguments)
            if tries == 1:
                raise ConnectionError
            return done

        monkeypatch.setattr("shared.jobs.queries.finish", cut_once)
        async with workers(lease_renew_seconds=renew_seconds) as worker:
            assert await worker.run(await table.add()) == "succeeded"
        assert tries == (2 if renew_seconds > 1 else 1)
        assert "too late" not in caplog.text

    async def test_pictures(
        self,
        workers: Workers,
        table: Table,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        renew_seconds: float,
    ) -> None:
        transaction, tries = Recorder.picture_transaction, 0

        @asynccontextmanager
        async def cut_once(recorder: Recorder) -> AsyncIterator[AsyncConnection]:
            nonlocal tries
            tries += 1
            async with transaction(recorder) as db:
                yield db
            if tries == 2:  # the first reads what the job came with
                raise ConnectionError

        monkeypatch.setattr(Recorder, "picture_transaction", cut_once)
        async with workers(lease_renew_seconds=renew_seconds) as worker:
            assert await worker.run(await table.add_image()) == "succeeded"
        assert tries == (3 if renew_seconds > 1 else 2)
        assert [each.message for each in caplog.records if each.levelname == "ERROR"] == []
        assert "too late" not in caplog.text
        assert len(await table.ask("SELECT 1 FROM artifacts")) == 1


class TestARowThatSomebodyHolds:
    """A process was stopped with a transaction open: the one job waits, all others go on."""

    @staticmethod
    @asynccontextmanager
    async def held(table: Table, query: str, **parameters: Any) -> AsyncIterator[None]:
        async with table.database.transaction() as db:
            await db.execute(text(query), parameters)
            yield

    JOB = "SELECT 1 FROM jobs WHERE id = :id FOR UPDATE"

    @pytest.mark.parametrize("image", [False, True], ids=["text", "picture"])
    async def test_an_answer_is_recorded_when_it_is_free(
        self, worker: Worker, table: Table, simulator: RunningSimulator, image: bool
    ) -> None:
        add = table.add_image if image else table.add
        job_id = await add("[[sim:latency=0.3]]")
        running = asyncio.create_task(worker.run(job_id))
        await table.until_sent(job_id)
        async with self.held(table, self.JOB, id=job_id):
            await asyncio.sleep(0.5)
            others = [await table.add(f"{number}") for number in range(5)]
            async with asyncio.timeout(1.5):
                assert await asyncio.gather(*map(worker.run, others)) == ["succeeded"] * 5
            assert not running.done()
        assert await asyncio.wait_for(running, 3) == "succeeded"
        assert calls(simulator, job_id) == {"1": 1}
        assert len(await table.ask("SELECT 1 FROM artifacts WHERE job_id = :id", id=job_id)) == int(image)

    async def test_a_call_goes_out_when_it_is_free(
        self, workers: Workers, table: Table, simulator: RunningSimulator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        claimed, go_on = asyncio.Event(), asyncio.Event()

        async def stop_at(point: str, job_id: UUID) -> None:
            if point == "claimed" and job_id == doomed:
                claimed.set()
                await go_on.wait()

        monkeypatch.setattr("worker.runner.checkpoint", stop_at)
        doomed = await table.add(on_unknown="fail")
        async with workers(lease_seconds=30) as worker:
            running = asyncio.create_task(worker.run(doomed))
            await claimed.wait()
            async with self.held(table, self.JOB, id=doomed):
                go_on.set()
                others = [await table.add(f"{number}") for number in range(5)]
                async with asyncio.timeout(1.5):
                    assert await asyncio.gather(*map(worker.run, others)) == ["succeeded"] * 5
                assert calls(simulator, doomed) == {}
            assert await asyncio.wait_for(running, 3) == "succeeded"
        assert calls(simulator, doomed) == {"1": 1}

    async def test_jobs_of_models_without_a_gate_are_claimed_while_a_gate_is_held(
        self, worker: Worker, table: Table
    ) -> None:
        async with table.database.transaction() as db:
            await gates.configure(db, {"nano-banana": (600, None)})
        async with self.held(table, "SELECT 1 FROM model_gates FOR UPDATE"):
            gated = asyncio.create_task(worker.run(await table.add_image()))
            await asyncio.sleep(0.1)
            async with asyncio.timeout(1.5):
                assert await worker.run(await table.add()) == "succeeded"
            assert not gated.done()
        assert await asyncio.wait_for(gated, 3) == "succeeded"
