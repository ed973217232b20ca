"""Transitions that meet, on connections of their own: one wins, nothing is torn, nobody deadlocks."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.config import Settings
from shared.db import Database, is_unavailable
from shared.gates import queries as gates
from shared.jobs import queries
from shared.jobs.queries import Renewal
from shared.jobs.status import FINAL, State
from shared.wakeups import Wakeups
from tests.integration.shared.jobs.conftest import Jobs, ending
from tests.patience import PATIENCE
from worker.maintenance import Maintenance

ROUNDS = 25


class NoDoorbell:
    """Stands where maintenance has a broker, for passes that use none."""

    async def ring(self, jobs: Any) -> list[UUID]:
        raise AssertionError("not here")


@pytest.fixture
def maintenance(database: Database, settings: Settings, wakeups: Wakeups) -> Maintenance:
    return Maintenance(database, settings, NoDoorbell(), wakeups)  # type: ignore[arg-type]


async def warm(database: Database, connections: int) -> None:
    """Opens the connections beforehand, so that a race is one of statements and not of logins."""
    async with asyncio.TaskGroup() as group:
        for _ in range(connections):
            group.create_task(_hold(database))


async def _hold(database: Database) -> None:
    async with database.transaction() as db:
        await db.execute(text("SELECT pg_sleep(0.05)"))


async def test_fifty_claims_of_one_job_are_one(jobs: Jobs) -> None:
    await warm(jobs.database, 50)
    for _ in range(3):
        job_id = await jobs.add()
        answers = await asyncio.gather(*(jobs.claim(job_id, worker=f"w{n}") for n in range(50)))
        assert sum(len(answer) for answer in answers) == 1
        assert len(await jobs.attempts(job_id)) == 1
        assert await jobs.events(job_id) == ["job.queued", "job.running"]


async def test_claim_and_cancel(jobs: Jobs) -> None:
    for _ in range(ROUNDS):
        job_id = await jobs.add()
        claimed, cancelled = await asyncio.gather(jobs.claim(job_id), jobs.cancel(job_id))
        assert cancelled is not None
        job = await jobs.get(job_id)
        assert job.state == ("running" if claimed else "cancelled")
        last = "job.cancel_requested" if claimed else "job.cancelled"
        assert (await jobs.events(job_id))[-1] == last


async def test_a_cancel_that_waited_for_a_claim_asks_the_worker(jobs: Jobs) -> None:
    """The cancel began when the job was queued: it must not end what runs by now."""
    job_id = await jobs.add()
    async with jobs.database.transaction() as db:
        await queries.claim(db, [job_id], worker="w", lease=30, grace=10)
        cancel = asyncio.create_task(jobs.cancel(job_id))
        await wait_for_a_lock(jobs)
    row = await cancel
    assert row is not None
    assert (row.state, row.attempt) == ("running", 1)
    assert await jobs.events(job_id) == ["job.queued", "job.running", "job.cancel_requested"]


async def test_a_claim_waits_for_no_job_that_somebody_holds(jobs: Jobs) -> None:
    """A process that was stopped in the middle of its transaction would hold up every claim of its batch."""
    held, free = await jobs.add(), await jobs.add()
    async with jobs.database.transaction() as db:
        await queries.cancel(db, jobs.project_id, held)
        async with asyncio.timeout(PATIENCE), jobs.database.transaction() as other:
            claimed = await queries.claim(other, [held, free], worker="w", lease=30, grace=10)
    assert list(claimed) == [free]
    assert await jobs.attempts(held) == []


async def test_a_renewal_waits_for_no_job_that_somebody_holds(jobs: Jobs) -> None:
    """The held one counts as alive, and the leases of all others are extended."""
    held, free = await jobs.add(state=State.RUNNING), await jobs.add(state=State.RUNNING)
    await jobs.run("UPDATE jobs SET lease_until = now() + interval '1 second'")
    async with jobs.database.transaction() as db:
        await queries.cancel(db, jobs.project_id, held)
        async with asyncio.timeout(PATIENCE), jobs.database.transaction() as other:
            alive = await queries.renew(other, [(held, 1), (free, 1)], lease=30)
    assert alive == {held: Renewal(cancel=False, extended=False), free: Renewal(cancel=False, extended=True)}
    longer = await jobs.ask("SELECT id FROM jobs WHERE lease_until > now() + interval '10 seconds'")
    assert str(free) in str(longer)
    assert str(held) not in str(longer)
    async with jobs.database.transaction() as db:
        assert await queries.renew(db, [(held, 1)], lease=30) == {held: Renewal(cancel=True, extended=True)}


async def test_a_note_waits_for_no_job_that_somebody_holds(jobs: Jobs) -> None:
    """The held one must not be called yet; it is told apart from one that must not be called at all."""
    held, free, over = [await jobs.add(state=State.RUNNING) for _ in range(3)]
    await jobs.let_the_lease_run_out(over)
    async with jobs.database.transaction() as db:
        await hold(db, held, over)
        async with asyncio.timeout(PATIENCE):
            assert await jobs.send(held, free, over) == {free}
        async with jobs.database.transaction() as other:
            numbers = [(held, 1), (free, 1), (over, 1), (held, 2)]
            assert await queries.present(other, numbers) == {held: True, free: True, over: False}
    assert await jobs.send(held, over) == {held}


async def test_an_ending_waits_for_no_job_that_somebody_holds(jobs: Jobs) -> None:
    held, free = await jobs.add(state=State.RUNNING), await jobs.add(state=State.RUNNING)
    async with jobs.database.transaction() as db:
        await hold(db, held)
        async with asyncio.timeout(PATIENCE):
            assert list(await jobs.finish(ending(held), ending(free))) == [free]
    assert (await jobs.finish(ending(held)))[held].state == "succeeded"


async def test_nobody_waits_to_park_or_unpublish_a_job_that_somebody_holds(jobs: Jobs) -> None:
    """The held one counts as published: its message is missed, and sent again."""
    held, parked, unpublished = await jobs.add_many(3)
    async with jobs.database.transaction() as db:
        await hold(db, held)
        async with asyncio.timeout(PATIENCE), jobs.database.transaction() as other:
            await queries.park(other, [held, parked], until=None, reason="rate_limited")
            await queries.unpublish(other, [held, unpublished])
    rows = await jobs.ask("SELECT id, waiting_reason FROM jobs WHERE published_at IS NULL ORDER BY id")
    assert [(row.id, row.waiting_reason) for row in rows] == [
        (parked, "rate_limited"),
        (unpublished, None),
    ]


async def test_beat_passes_over_a_gate_that_somebody_holds(jobs: Jobs) -> None:
    async with jobs.database.transaction() as db:
        await gates.configure(db, {"gemini-flash": (60, None), "nano-banana": (60, None)})
    async with jobs.database.transaction() as db:
        await gates.lock(db, ["gemini-flash"])
        async with asyncio.timeout(PATIENCE), jobs.database.transaction() as other:
            assert [gate.model for gate in await gates.lock(other)] == ["nano-banana"]


async def test_a_lock_is_not_waited_for_for_long(jobs: Jobs) -> None:
    """What cannot pass over it (here: a second cancel) says that it is to be tried again, which is a 503."""
    job_id = await jobs.add()
    async with jobs.database.transaction() as db:
        await hold(db, job_id)
        began = asyncio.get_running_loop().time()
        with pytest.raises(DBAPIError) as raised:
            await jobs.cancel(job_id)
        assert 2 < asyncio.get_running_loop().time() - began < 4.5
    assert is_unavailable(raised.value)


async def test_a_retry_that_met_a_cancel_ends_cancelled(jobs: Jobs) -> None:
    job_id = await jobs.add(state=State.RUNNING)
    async with jobs.database.transaction() as db:
        await queries.cancel(db, jobs.project_id, job_id)
        assert await jobs.finish(ending(job_id, state="queued")) == {}
    assert (await jobs.finish(ending(job_id, state="queued")))[job_id].state == "cancelled"
    assert (await jobs.events(job_id))[-2:] == ["job.cancel_requested", "job.cancelled"]


async def hold(db: AsyncConnection, *ids: UUID) -> None:
    """As a process does that was stopped with a transaction open."""
    await db.execute(
        text("SELECT 1 FROM jobs WHERE id = ANY(CAST(:ids AS uuid[])) ORDER BY id FOR UPDATE"),
        {"ids": list(ids)},
    )


async def wait_for_a_lock(jobs: Jobs) -> None:
    """Until somebody in this database waits for a lock."""
    async with asyncio.timeout(PATIENCE):
        while not await jobs.ask(
            "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        ):
            await asyncio.sleep(0.01)


async def finish_patiently(jobs: Jobs, job_id: UUID) -> None:
    """As a worker does that was passed over."""
    while not await jobs.finish(ending(job_id)):
        async with jobs.database.transaction() as db:
            if not await queries.present(db, [(job_id, 1)]):
                return


@pytest.mark.parametrize("sent", [False, True])
async def test_finish_cancel_and_rescue(jobs: Jobs, maintenance: Maintenance, sent: bool) -> None:
    """Whoever comes first, there is one end of each attempt and one sequence of events."""
    seen: Counter[str] = Counter()
    for number in range(ROUNDS):
        job_id = await jobs.add(state=State.RUNNING)
        if sent:
            await jobs.send(job_id)
        await jobs.let_the_lease_run_out(job_id)
        racers: list[Callable[[], Awaitable[Any]]] = [
            lambda job_id=job_id: finish_patiently(jobs, job_id),  # type: ignore[misc]
            lambda job_id=job_id: jobs.cancel(job_id),  # type: ignore[misc]
            maintenance.rescue,
        ]
        random.Random(number).shuffle(racers)
        await asyncio.gather(*(racer() for racer in racers))
        job, events, (attempt,) = (
            await jobs.get(job_id),
            await jobs.events(job_id),
            await jobs.attempts(job_id),
        )
        assert attempt.outcome is not None
        assert job.state in {"succeeded", "cancelled"}, "a cancel was asked for, so no retry waits"
        assert (job.state == "succeeded") == (attempt.outcome == "succeeded")
        assert sum(event in {f"job.{state}" for state in FINAL} for event in events) == 1
        seen[f"{job.state} {attempt.outcome}"] += 1
    assert seen, seen


async def test_a_rescue_keeps_off_while_a_call_is_being_noted(jobs: Jobs, maintenance: Maintenance) -> None:
    """Or it would take a job back as never sent whose call is about to go out: two calls, one of them on nobody's bill."""
    job_id = await jobs.add(state=State.RUNNING)
    await jobs.run("UPDATE jobs SET lease_until = now() + interval '200 milliseconds'")
    async with jobs.database.transaction() as db:
        assert await queries.mark_sent(db, [{"job_id": job_id, "number": 1, "estimate": "0.25"}])
        await asyncio.sleep(0.25)
        assert await maintenance.rescue() == 0, "the lease ran out, and the note's lock holds"
    assert await maintenance.rescue() == 1
    (attempt,) = await jobs.attempts(job_id)
    assert (attempt.outcome, str(attempt.cost_usd)) == ("unknown", "0.25000000")


async def test_notes_and_rescues_agree_on_what_was_sent(jobs: Jobs, maintenance: Maintenance) -> None:
    """Whatever their order: who was told to call is rescued as unknown, who was told not to as lost."""
    rng, seen = random.Random(7), Counter[str]()
    # Half of the leases end before the note and half after it, however fast this machine is: the window follows what was seen.
    window, rounds = 0.004, 0
    while rounds < 2 * ROUNDS or (len(seen) < 2 and rounds < 20 * ROUNDS):
        job_id = await jobs.add(state=State.RUNNING)
        await jobs.run(
            "UPDATE jobs SET lease_until = clock_timestamp() + make_interval(secs => :window) WHERE id = :id",
            window=window,
            id=job_id,
        )

        async def note(job_id: UUID = job_id, longest: float = window) -> bool:
            await asyncio.sleep(rng.uniform(0, longest))
            return job_id in await jobs.send(job_id)

        async def rescue(job_id: UUID = job_id) -> str:
            while (attempt := (await jobs.attempts(job_id))[0]).outcome is None:
                await maintenance.rescue()
            return str(attempt.outcome)

        sent, outcome = await asyncio.gather(note(), rescue())
        assert outcome == ("unknown" if sent else "lost")
        seen[outcome] += 1
        rounds += 1
        window = max(0.0005, min(1.0, window * (0.8 if sent else 1.25)))
    assert len(seen) == 2, f"both orders must occur: {seen}"


async def test_a_note_that_met_a_rescue_must_not_call(jobs: Jobs, maintenance: Maintenance) -> None:
    job_id = await jobs.add(state=State.RUNNING)
    await jobs.run("UPDATE jobs SET lease_until = now() + interval '150 milliseconds'")
    async with jobs.database.transaction() as db:
        # A statement to which the lease is good, while a rescue is under way.
        await db.execute(text("SELECT 1"))
        await asyncio.sleep(0.2)
        async with jobs.database.transaction() as rescue:
            (row,) = await queries.lock_lost(rescue, limit=10)
            assert await queries.mark_sent(db, [{"job_id": job_id, "number": 1, "estimate": "0"}]) == set()
            assert await queries.present(db, [(job_id, 1)]) == {job_id: True}, "it was passed over"
            await queries.finish(
                rescue, [ending(job_id, state="queued", outcome="lost", provider=None, cost="0")]
            )
        assert row.sent is False
        assert await queries.mark_sent(db, [{"job_id": job_id, "number": 1, "estimate": "0"}]) == set()
        assert await queries.present(db, [(job_id, 1)]) == {}
    (attempt,) = await jobs.attempts(job_id)
    assert (attempt.outcome, attempt.sent_at) == ("lost", None)


async def test_two_rescuers_share_the_work(jobs: Jobs, maintenance: Maintenance) -> None:
    ids = await jobs.add_many(60)
    await jobs.claim(*ids)
    await jobs.send(*ids[::2])
    await jobs.let_the_lease_run_out(*ids)
    counts = await asyncio.gather(*(maintenance.rescue() for _ in range(4)))
    assert sum(counts) == 60
    for job_id in ids:
        assert len(await jobs.attempts(job_id)) == 1
        assert await jobs.events(job_id) == ["job.queued", "job.running", "job.retry_scheduled"]
    outcomes = Counter(row.outcome for row in await jobs.ask("SELECT outcome FROM attempts"))
    assert outcomes == {"unknown": 30, "lost": 30}


async def test_expire_and_claim(jobs: Jobs, maintenance: Maintenance) -> None:
    for _ in range(ROUNDS):
        job_id = await jobs.add()
        await jobs.run("UPDATE jobs SET expires_at = clock_timestamp() + interval '3 milliseconds'")
        await asyncio.sleep(0.002)
        claimed, _ = await asyncio.gather(jobs.claim(job_id), maintenance.expire())
        await asyncio.sleep(0.002)
        if not claimed:
            await maintenance.expire()
        job = await jobs.get(job_id)
        assert job.state == ("running" if claimed else "expired")
        await jobs.events(job_id)
        await jobs.run("DELETE FROM jobs")


async def test_batches_in_any_order_never_deadlock(jobs: Jobs, maintenance: Maintenance) -> None:
    """Renewals, notes, records, cancels and rescues of overlapping subsets, each in an order of its own."""
    ids = await jobs.add_many(40, max_attempts=20)
    await warm(jobs.database, 20)
    end = asyncio.get_running_loop().time() + 4

    async def keep(seed: int, act: Callable[[random.Random, list[UUID]], Awaitable[object]]) -> int:
        rng, done = random.Random(seed), 0
        while asyncio.get_running_loop().time() < end:
            subset = rng.sample(ids, rng.randint(1, 30))
            await act(rng, subset)
            done += 1
        return done

    numbers: dict[UUID, int] = dict.fromkeys(ids, 1)

    async def claim(_: random.Random, subset: list[UUID]) -> None:
        for job_id, row in (await jobs.claim(*subset)).items():
            numbers[job_id] = row.attempt

    async def renew(_: random.Random, subset: list[UUID]) -> None:
        await jobs.renew(*((job_id, numbers[job_id]) for job_id in subset))

    async def note(_: random.Random, subset: list[UUID]) -> None:
        rows = [{"job_id": job_id, "number": numbers[job_id], "estimate": "0"} for job_id in subset]
        async with jobs.database.transaction() as db:
            await queries.mark_sent(db, rows)

    async def finish(rng: random.Random, subset: list[UUID]) -> None:
        rows = [
            ending(job_id, numbers[job_id], state="queued", counted=False)
            for job_id in subset[: rng.randint(1, 5)]
        ]
        await jobs.finish(*rows)

    async def dispatch(_: random.Random, subset: list[UUID]) -> None:
        async with jobs.database.transaction() as db:
            await queries.dispatch_due(db, limit=len(subset))
        async with jobs.database.transaction() as db:
            await queries.unpublish(db, subset)

    async def rescue(_: random.Random, subset: list[UUID]) -> None:
        await jobs.run(
            "WITH j AS (SELECT id FROM jobs WHERE state = 'running' AND id = ANY(CAST(:ids AS uuid[])) "
            "ORDER BY id FOR UPDATE) "
            "UPDATE jobs SET lease_until = now() - interval '1 second' FROM j WHERE jobs.id = j.id",
            ids=subset[:2],
        )
        await maintenance.rescue()

    done = await asyncio.gather(
        *(
            keep(seed, act)
            for seed, act in enumerate(
                [claim, claim, renew, renew, renew, note, note, finish, finish, dispatch, rescue]
            )
        )
    )
    assert min(done) > 5, "everyone got his turn"
    for job_id in ids:
        await jobs.events(job_id)
