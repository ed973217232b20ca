"""Each transition by itself: what it changes, which event it appends, what it refuses."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from shared.jobs import queries
from shared.jobs.status import FINAL, TRANSITIONS, State
from shared.models.jobs import FINAL_STATES, OUTCOMES, PRIORITIES, STATES
from tests import factories
from tests.integration.shared.jobs.conftest import Jobs, ending

NOT_QUEUED = [state for state in State if state is not State.QUEUED]
NOT_RUNNING = [state for state in State if state is not State.RUNNING]


def soon(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


def test_status_and_tables_use_the_same_words() -> None:
    from shared.jobs.status import Outcome, Priority

    assert tuple(State) == STATES
    assert frozenset(FINAL_STATES) == FINAL == {state for state, next_ in TRANSITIONS.items() if not next_}
    assert tuple(Outcome) == OUTCOMES
    assert tuple(Priority) == PRIORITIES


class TestSubmit:
    async def test_a_job_that_may_run_now_counts_as_published(self, jobs: Jobs) -> None:
        job = await jobs.get(await jobs.add())
        assert (job.state, job.version, job.attempt, job.waiting_reason) == ("queued", 1, 0, None)
        assert job.published_at is not None
        assert await jobs.events(job.id) == ["job.queued"]

    async def test_a_scheduled_one_does_not(self, jobs: Jobs) -> None:
        job = await jobs.get(await jobs.add(scheduled_at=soon(60)))
        assert (job.published_at, job.waiting_reason) == (None, "scheduled")

    async def test_a_schedule_in_the_past_means_now(self, jobs: Jobs) -> None:
        job = await jobs.get(await jobs.add(scheduled_at=soon(-60)))
        assert job.published_at is not None
        assert job.waiting_reason is None

    async def test_the_view_says_until_when_it_waits(self, jobs: Jobs) -> None:
        job_id = await jobs.add(scheduled_at=soon(60))
        async with jobs.database.transaction() as db:
            row = (await queries.get(db, [job_id]))[job_id]
        assert row.waiting_reason == "scheduled"
        assert row.waiting_until == row.scheduled_at

    async def test_one_bad_row_stores_none_of_the_batch(self, jobs: Jobs) -> None:
        good, bad = jobs.row(), jobs.row(max_attempts=21)
        with pytest.raises(Exception, match="ck_jobs_max_attempts_range"):
            async with jobs.database.transaction() as db:
                await queries.submit(db, [good, bad])
        assert await jobs.ask("SELECT 1 FROM jobs") == []


class TestClaim:
    async def test_what_it_changes(self, jobs: Jobs) -> None:
        job_id = await jobs.add(timeout_seconds=100.0)
        row = (await jobs.claim(job_id, worker="me", lease=30, grace=10))[job_id]
        assert (row.attempt, row.input, row.kind) == (1, factories.TEXT_JOB["input"], "text.generate")
        job = await jobs.get(job_id)
        assert (job.state, job.version, job.attempt, job.lease_owner) == ("running", 2, 1, "me")
        assert (job.published_at, job.waiting_reason) == (None, None)
        assert job.lease_until - job.started_at == timedelta(seconds=30)
        assert job.deadline_at - job.started_at == timedelta(seconds=110)
        (attempt,) = await jobs.attempts(job_id)
        assert (attempt.number, attempt.worker, attempt.outcome, attempt.sent_at) == (1, "me", None, None)
        assert await jobs.events(job_id) == ["job.queued", "job.running"]
        assert await jobs.last_event(job_id) == {"attempt": 1}

    async def test_a_lease_is_never_longer_than_the_attempt(self, jobs: Jobs) -> None:
        job_id = await jobs.add(timeout_seconds=1.0)
        await jobs.claim(job_id, lease=3600, grace=2)
        job = await jobs.get(job_id)
        assert job.lease_until == job.deadline_at

    @pytest.mark.parametrize("state", NOT_QUEUED)
    async def test_refuses_every_other_state(self, jobs: Jobs, state: State) -> None:
        job_id = await jobs.add(state=state)
        before = await jobs.get(job_id)
        assert await jobs.claim(job_id) == {}
        assert await jobs.get(job_id) == before

    async def test_refuses_what_is_scheduled_for_later(self, jobs: Jobs) -> None:
        assert await jobs.claim(await jobs.add(scheduled_at=soon(60))) == {}

    async def test_refuses_what_has_expired(self, jobs: Jobs) -> None:
        job_id = await jobs.add(expires_at=soon(60))
        await jobs.run("UPDATE jobs SET expires_at = now() WHERE id = :id", id=job_id)
        assert await jobs.claim(job_id) == {}

    async def test_refuses_an_attempt_too_many(self, jobs: Jobs) -> None:
        job_id = await jobs.add(max_attempts=3)
        await jobs.run("UPDATE jobs SET attempt = 5, snoozes = 2 WHERE id = :id", id=job_id)
        assert await jobs.claim(job_id) == {}
        await jobs.run("UPDATE jobs SET snoozes = 3 WHERE id = :id", id=job_id)
        assert (await jobs.claim(job_id))[job_id].attempt == 6

    async def test_a_batch_takes_what_may_run_and_leaves_the_rest(self, jobs: Jobs) -> None:
        good = await jobs.add_many(3)
        later, gone, nobody = (
            await jobs.add(scheduled_at=soon(60)),
            await jobs.add(state=State.CANCELLED),
            uuid7(),
        )
        claimed = await jobs.claim(good[0], later, good[1], nobody, gone, good[2], good[0])
        assert set(claimed) == set(good)
        for job_id in good:
            assert len(await jobs.attempts(job_id)) == 1

    async def test_the_second_attempt_keeps_when_the_first_began(self, jobs: Jobs) -> None:
        job_id = await jobs.add()
        await jobs.claim(job_id)
        first = (await jobs.get(job_id)).started_at
        await jobs.finish(ending(job_id, state="queued"))
        assert (await jobs.claim(job_id))[job_id].attempt == 2
        assert (await jobs.get(job_id)).started_at == first


class TestNotedByItsClaim:
    """Where the call follows at once, the claim is the note as well: one commit less."""

    async def test_it_counts_as_sent_from_then_on(self, jobs: Jobs) -> None:
        job_id = await jobs.add()
        assert (await jobs.claim(job_id, noted=["text.generate"]))[job_id].noted
        (attempt,) = await jobs.attempts(job_id)
        assert attempt.sent_at >= attempt.claimed_at
        assert attempt.estimated_cost_usd is None

    @pytest.mark.parametrize(
        ("columns", "noted"),
        [({"on_unknown": "fail"}, ["text.generate"]), ({}, ["image.generate"]), ({}, [])],
    )
    async def test_a_strict_policy_and_other_kinds_have_their_own_note(
        self, jobs: Jobs, columns: dict[str, Any], noted: list[str]
    ) -> None:
        job_id = await jobs.add(**columns)
        assert not (await jobs.claim(job_id, noted=noted))[job_id].noted
        assert (await jobs.attempts(job_id))[0].sent_at is None

    async def test_who_did_not_call_takes_it_back(self, jobs: Jobs) -> None:
        job_id = await jobs.add()
        await jobs.claim(job_id, noted=["text.generate"])
        await jobs.finish(ending(job_id, state="queued", outcome="lost", not_called=True))
        (attempt,) = await jobs.attempts(job_id)
        assert (attempt.outcome, attempt.sent_at) == ("lost", None)

    async def test_taken_back_where_a_cancel_was_asked_for(self, jobs: Jobs) -> None:
        job_id = await jobs.add()
        await jobs.claim(job_id, noted=["text.generate"])
        await jobs.cancel(job_id)
        await jobs.finish(ending(job_id, state="queued", outcome="lost", not_called=True))
        assert (await jobs.last_event(job_id))["provider_called"] is False

    async def test_the_ending_says_what_was_expected(self, jobs: Jobs) -> None:
        job_id = await jobs.add()
        await jobs.claim(job_id, noted=["text.generate"])
        await jobs.finish(ending(job_id, estimate="0.25"))
        assert (await jobs.attempts(job_id))[0].estimated_cost_usd == Decimal("0.25")


class TestMarkSent:
    async def test_notes_when_and_what_it_may_cost(self, jobs: Jobs) -> None:
        job_id = await jobs.add(state=State.RUNNING)
        assert await jobs.send(job_id, estimate="0.25") == {job_id}
        (attempt,) = await jobs.attempts(job_id)
        assert attempt.sent_at is not None
        assert attempt.estimated_cost_usd == Decimal("0.25")
        assert len(await jobs.events(job_id)) == 2, "a note is no transition"

    @pytest.mark.parametrize("state", NOT_RUNNING)
    async def test_refuses_every_other_state(self, jobs: Jobs, state: State) -> None:
        assert await jobs.send(await jobs.add(state=state)) == set()

    async def test_refuses_an_earlier_attempt(self, jobs: Jobs) -> None:
        job_id = await jobs.add(state=State.RUNNING)
        await jobs.finish(ending(job_id, state="queued"))
        await jobs.claim(job_id)
        assert await jobs.send(job_id, number=1) == set()
        assert await jobs.send(job_id, number=2) == {job_id}

    async def test_refuses_where_a_cancel_is_asked_for(self, jobs: Jobs) -> None:
        job_id = await jobs.add(state=State.RUNNING)
        await jobs.cancel(job_id)
        assert await jobs.send(job_id) == set()

    async def test_refuses_a_lease_that_ran_out(self, jobs: Jobs) -> None:
        job_id = await jobs.add(state=State.RUNNING)
        await jobs.let_the_lease_run_out(job_id)
        assert await jobs.send(job_id) == set()
        assert (await jobs.attempts(job_id))[0].sent_at is None

    async def test_a_batch_answers_for_each(self, jobs: Jobs) -> None:
        running = [await jobs.add(state=State.RUNNING) for _ in range(2)]
        assert await jobs.send(running[1], uuid7(), await jobs.add(), running[0]) == set(running)


class TestRenew:
    async def test_extends_the_lease_and_nothing_else(self, jobs: Jobs) -> None:
        job_id = await jobs.add(state=State.RUNNING)
        before = await jobs.get(job_id)
        assert await jobs.renew((job_id, 1), lease=100) == {job_id: False}
        after = await jobs.get(job_id)
        assert after.lease_until > before.lease_until + timedelta(seconds=60)
        assert {**after._asdict(), "lease_until": None} == {**before._asdict(), "lease_until": None}

    async def test_never_past_the_deadline(self, jobs: Jobs) -> None:
        job_id = await jobs.add()
        await jobs.claim(job_id, lease=5)
        await jobs.renew((job_id, 1), lease=100_000)
        job = await jobs.get(job_id)
        assert job.lease_until == job.deadline_at

    async def test_never_shortens(self, jobs: Jobs) -> None:
        job_id = await jobs.add(state=State.RUNNING)
        before = await jobs.get(job_id)
        assert await jobs.renew((job_id, 1), lease=0.1) == {job_id: False}
        assert (await jobs.get(job_id)).lease_until == before.lease_until

    async def test_tells_of_a_cancel(self, jobs: Jobs) -> None:
        job_id = await jobs.add(state=State.RUNNING)
        await jobs.cancel(job_id)
        assert await jobs.renew((job_id, 1)) == {job_id: True}

    @pytest.mark.parametrize("state", NOT_RUNNING)
    async def test_refuses_every_other_state(self, jobs: Jobs, state: State) -> None:
        assert await jobs.renew((await jobs.add(state=state), 1)) == {}

    async def test_a_batch_refuses_an_earlier_attempt_alone(self, jobs: Jobs) -> None:
        mine, taken = await jobs.add(state=State.RUNNING), await jobs.add(state=State.RUNNING)
        await jobs.finish(ending(taken, state="queued"))
        await jobs.claim(taken)
        assert await jobs.renew((taken, 1), (mine, 1), (uuid7(), 1)) == {mine: False}


class TestFinish:
    async def test_success(self, jobs: Jobs) -> None:
        job_id = await jobs.add(state=State.RUNNING)
        await jobs.send(job_id)
        written = await jobs.finish(ending(job_id, answered=True))
        assert (written[job_id].state, written[job_id].version) == ("succeeded", 3)
        job = await jobs.get(job_id)
        assert (job.state, job.result, job.error) == ("succeeded", {"text": "done"}, None)
        assert job.finished_at is not None
        assert (job.lease_until, job.lease_owner, job.deadline_at, job.published_at) == (
            None,
            None,
            None,
            None,
        )
        assert (job.provider, job.upstream_model, job.model_version) == ("simulator", "upstream", "v1")
        assert (job.usage, job.cost_usd) == ({"input_tokens": 1}, Decimal("0.01"))
        (attempt,) = await jobs.attempts(job_id)
        assert (attempt.outcome, attempt.counted, attempt.cost_usd) == ("succeeded", True, Decimal("0.01"))
        assert attempt.sent_at <= attempt.answered_at == attempt.finished_at
        assert (attempt.upstream_request_id, attempt.usage) == ("r1", {"input_tokens": 1})
        assert await jobs.events(job_id) == ["job.queued", "job.running", "job.succeeded"]
        assert await jobs.last_event(job_id) == {"attempt": 1}

    async def test_back_to_queued(self, jobs: Jobs) -> None:
        job_id = await jobs.add(state=State.RUNNING)
        await jobs.finish(ending(job_id, state="queued", delay=60.0))
        job = await jobs.get(job_id)
        assert (job.state, job.waiting_reason, job.snoozes) == ("queued", "retry_backoff", 0)
        assert (job.finished_at, job.published_at, job.lease_until) == (None, None, None)
        assert job.error == {"code": "x", "message": "y"}
        attempt = (await jobs.attempts(job_id))[0]
        assert job.scheduled_at - attempt.finished_at == timedelta(seconds=60)
        assert await jobs.claim(job_id) == {}, "not before its time"
        told = datetime.fromisoformat((await jobs.last_event(job_id))["scheduled_at"])
        assert told == job.scheduled_at

    async def test_what_uses_up_no_attempt(self, jobs: Jobs) -> None:
        job_id = await jobs.add(max_attempts=1)
        for number in range(1, 5):
            assert (await jobs.claim(job_id))[job_id].attempt == number
            await jobs.finish(
                ending(job_id, number, state="queued", counted=False, waiting_reason="rate_limited")
            )
        job = await jobs.get(job_id)
        assert (job.attempt, job.snoozes, job.waiting_reason) == (4, 4, "rate_limited")
        assert [attempt.counted for attempt in await jobs.attempts(job_id)] == [False] * 4

    @pytest.mark.parametrize(
        "fields", [{"answered": True}, {"state": "queued", "outcome": "unknown"}], ids=["answered", "unknown"]
    )
    async def test_an_answer_is_kept_though_the_note_of_its_call_was_lost(
        self, jobs: Jobs, fields: dict[str, Any]
    ) -> None:
        """As by a server that crashed without synchronous commits, or a standby that took over a moment behind."""
        job_id = await jobs.add(state=State.RUNNING)
        assert job_id in await jobs.finish(ending(job_id, **fields))
        (attempt,) = await jobs.attempts(job_id)
        assert attempt.sent_at == attempt.claimed_at

    async def test_a_success_clears_the_error_and_costs_add_up(self, jobs: Jobs) -> None:
        job_id = await jobs.add(state=State.RUNNING)
        await jobs.finish(ending(job_id, state="queued", model_version=None, usage=None))
        await jobs.claim(job_id)
        await jobs.finish(ending(job_id, 2, model_version="v2"))
        job = await jobs.get(job_id)
        assert (job.error, job.model_version, job.cost_usd) == (None, "v2", Decimal("0.02"))
        assert [attempt.cost_usd for attempt in await jobs.attempts(job_id)] == [Decimal("0.01")] * 2

    async def test_what_would_wait_ends_where_a_cancel_was_asked_for(self, jobs: Jobs) -> None:
        job_id = await jobs.add(state=State.RUNNING)
        await jobs.send(job_id)
        await jobs.cancel(job_id)
        written = await jobs.finish(ending(job_id, state="queued", delay=60.0, data={"waiting_reason": "x"}))
        assert written[job_id].state == "cancelled"
        job = await jobs.get(job_id)
        assert (job.state, job.waiting_reason) == ("cancelled", None)
        assert job.finished_at is not None
        assert await jobs.events(job_id) == [
            "job.queued",
            "job.running",
            "job.cancel_requested",
            "job.cancelled",
        ]
        assert await jobs.last_event(job_id) == {"provider_called": True}

    async def test_an_answer_that_came_before_the_cancel_is_kept(self, jobs: Jobs) -> None:
        job_id = await jobs.add(state=State.RUNNING)
        await jobs.cancel(job_id)
        assert (await jobs.finish(ending(job_id)))[job_id].state == "succeeded"

    @pytest.mark.parametrize("state", NOT_RUNNING)
    async def test_refuses_every_other_state(self, jobs: Jobs, state: State) -> None:
        job_id = await jobs.add(state=state)
        before, attempts = await jobs.get(job_id), await jobs.attempts(job_id)
        assert await jobs.finish(ending(job_id)) == {}
        assert await jobs.get(job_id) == before
        assert await jobs.attempts(job_id) == attempts

    async def test_refuses_an_earlier_attempt(self, jobs: Jobs) -> None:
        job_id = await jobs.add(state=State.RUNNING)
        await jobs.finish(ending(job_id, state="queued"))
        await jobs.claim(job_id)
        before, attempts = await jobs.get(job_id), await jobs.attempts(job_id)
        assert await jobs.finish(ending(job_id, 1)) == {}
        assert (await jobs.get(job_id), await jobs.attempts(job_id)) == (before, attempts)

    async def test_a_batch_writes_the_good_and_skips_the_fenced(self, jobs: Jobs) -> None:
        good = [await jobs.add(state=State.RUNNING) for _ in range(2)]
        fenced = await jobs.add(state=State.CANCELLED)
        written = await jobs.finish(
            ending(good[1]), ending(fenced), ending(uuid7()), ending(good[0], state="queued")
        )
        assert {job_id: row.state for job_id, row in written.items()} == {
            good[0]: "queued",
            good[1]: "succeeded",
        }


class TestCancel:
    async def test_a_queued_job_ends_at_once(self, jobs: Jobs) -> None:
        job_id = await jobs.add(scheduled_at=soon(60))
        row = await jobs.cancel(job_id)
        assert row is not None
        assert row.state == "cancelled"
        job = await jobs.get(job_id)
        assert (job.waiting_reason, job.published_at) == (None, None)
        assert job.finished_at == job.cancel_requested_at
        assert await jobs.events(job_id) == ["job.queued", "job.cancelled"]

    async def test_a_running_job_is_asked_to_stop(self, jobs: Jobs) -> None:
        job_id = await jobs.add(state=State.RUNNING)
        row = await jobs.cancel(job_id)
        assert row is not None
        assert (row.state, row.finished_at) == ("running", None)
        assert await jobs.events(job_id) == ["job.queued", "job.running", "job.cancel_requested"]

    async def test_twice_is_once(self, jobs: Jobs) -> None:
        job_id = await jobs.add(state=State.RUNNING)
        await jobs.cancel(job_id)
        assert await jobs.cancel(job_id) is None
        assert len(await jobs.events(job_id)) == 3

    @pytest.mark.parametrize("state", sorted(FINAL))
    async def test_refuses_final_states(self, jobs: Jobs, state: State) -> None:
        job_id = await jobs.add(state=state)
        before = await jobs.get(job_id)
        assert await jobs.cancel(job_id) is None
        assert await jobs.get(job_id) == before

    async def test_refuses_another_project(self, jobs: Jobs) -> None:
        job_id = await jobs.add()
        other = await factories.project(jobs.database, "other")
        assert await jobs.cancel(job_id, other) is None
        assert (await jobs.get(job_id)).state == "queued"


class TestDispatch:
    async def dispatch(self, jobs: Jobs, limit: int = 100) -> list[tuple[UUID, str]]:
        async with jobs.database.transaction() as db:
            return await queries.dispatch_due(db, limit=limit)

    async def test_takes_what_is_due_and_untold(self, jobs: Jobs) -> None:
        due = await jobs.add(state=State.RUNNING, queue="image.batch")
        await jobs.finish(ending(due, state="queued"))
        await jobs.add()  # told
        await jobs.add(scheduled_at=soon(60))
        await jobs.add(state=State.CANCELLED)
        assert await self.dispatch(jobs) == [(due, "image.batch")]
        assert await self.dispatch(jobs) == [], "once"
        assert len(await jobs.events(due)) == 3, "telling is no transition"

    async def test_longest_waiting_first_and_no_more_than_asked(self, jobs: Jobs) -> None:
        ids = await jobs.add_many(5)
        for age, job_id in enumerate(ids):
            await jobs.run(
                "UPDATE jobs SET published_at = NULL, scheduled_at = now() - make_interval(secs => :age) WHERE id = :id",
                age=age,
                id=job_id,
            )
        assert {job_id for job_id, _ in await self.dispatch(jobs, limit=2)} == {ids[4], ids[3]}

    async def test_unpublish_takes_it_back(self, jobs: Jobs) -> None:
        queued, running = await jobs.add(), await jobs.add(state=State.RUNNING)
        async with jobs.database.transaction() as db:
            await queries.unpublish(db, [queued, running, uuid7()])
        assert [job_id for job_id, _ in await self.dispatch(jobs)] == [queued]
        assert (await jobs.get(running)).published_at is None


class TestRepublish:
    async def make_stale(self, jobs: Jobs, *ids: UUID, seconds: float = 60) -> None:
        await jobs.run(
            "UPDATE jobs SET published_at = now() - make_interval(secs => :age) WHERE id = ANY(CAST(:ids AS uuid[]))",
            age=seconds,
            ids=list(ids),
        )

    async def test_counts_by_queue(self, jobs: Jobs) -> None:
        old = await jobs.add_many(2)
        await jobs.add_many(3)
        await jobs.add_many(1, queue="image.batch")
        await jobs.add(scheduled_at=soon(60))
        await self.make_stale(jobs, *old)
        async with jobs.database.transaction() as db:
            counted = await queries.stale_queues(db, after=30)
        assert sorted(counted) == [("image.batch", 1, 0), ("text.standard", 5, 2)]

    async def test_takes_those_told_longest_ago(self, jobs: Jobs) -> None:
        old, older = await jobs.add_many(2)
        await jobs.add_many(2)
        other = (await jobs.add_many(1, queue="image.batch"))[0]
        await self.make_stale(jobs, old, other)
        await self.make_stale(jobs, older, seconds=90)

        async def republish(limit: int) -> set[UUID]:
            async with jobs.database.transaction() as db:
                taken = await queries.republish(db, "text.standard", after=30, limit=limit)
            return {job_id for job_id, _ in taken}

        assert await republish(1) == {older}
        assert await republish(10) == {old}
        assert await republish(10) == set()


class TestRescue:
    async def lost(self, jobs: Jobs) -> list[UUID]:
        async with jobs.database.transaction() as db:
            return [row.job_id for row in await queries.lock_lost(db, limit=100)]

    async def test_finds_what_ran_out_and_how_far_it_came(self, jobs: Jobs) -> None:
        before, after = [await jobs.add(state=State.RUNNING) for _ in range(2)]
        await jobs.add(state=State.RUNNING)  # its lease is good
        await jobs.send(after, estimate="0.5")
        await jobs.cancel(before)
        await jobs.let_the_lease_run_out(before, after)
        async with jobs.database.transaction() as db:
            rows = {row.job_id: row for row in await queries.lock_lost(db, limit=100)}
        assert set(rows) == {before, after}
        assert (rows[before].sent, rows[before].estimate, rows[before].cancel) == (False, None, True)
        assert (rows[after].sent, rows[after].estimate, rows[after].cancel) == (True, Decimal("0.5"), False)
        assert rows[after].lease_owner == "test-worker"
        assert (rows[before].input, rows[after].input) == (None, None), (
            "only an estimate that is missing needs it"
        )

    @pytest.mark.parametrize("state", NOT_RUNNING)
    async def test_leaves_every_other_state(self, jobs: Jobs, state: State) -> None:
        await jobs.add(state=state)
        assert await self.lost(jobs) == []


class TestExpire:
    async def expire(self, jobs: Jobs) -> int:
        async with jobs.database.transaction() as db:
            return len(await queries.expire(db, limit=100))

    async def test_ends_what_nobody_started_in_time(self, jobs: Jobs) -> None:
        late = await jobs.add(expires_at=soon(60), scheduled_at=soon(30))
        await jobs.run("UPDATE jobs SET expires_at = now() WHERE id = :id", id=late)
        await jobs.add(expires_at=soon(60))
        await jobs.add()
        assert await self.expire(jobs) == 1
        job = await jobs.get(late)
        assert (job.state, job.waiting_reason, job.published_at) == ("expired", None, None)
        assert job.finished_at is not None
        assert await jobs.events(late) == ["job.queued", "job.expired"]

    async def test_leaves_what_runs(self, jobs: Jobs) -> None:
        job_id = await jobs.add(state=State.RUNNING, expires_at=soon(60))
        await jobs.run("UPDATE jobs SET expires_at = now() WHERE id = :id", id=job_id)
        assert await self.expire(jobs) == 0
        assert (await jobs.finish(ending(job_id)))[job_id].state == "succeeded"
