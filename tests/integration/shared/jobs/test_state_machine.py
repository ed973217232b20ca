"""Random interleavings of everything that can happen to jobs, against the real database, beside a model of it.

Hypothesis draws sequences of transitions; after each one all jobs, attempts, events and gates are compared with
``model.World``, and with what must hold whatever the model says. One of the steps runs several transitions at once
and asks for an order of them that explains what came of it.

The usual run draws the same sequences every time. For others, as many as wanted::

    STATE_MACHINE_EXAMPLES=2000 scripts/test tests/integration/shared/jobs/test_state_machine.py
    STATE_MACHINE_EXAMPLES=2000 STATE_MACHINE_SEED=7 …         the same ones again
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from random import SystemRandom
from typing import Any
from uuid import UUID, uuid4

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, seed
from hypothesis import settings as hypothesis_settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection
from uuid_utils.compat import uuid7

from shared.config import Settings
from shared.db import Database
from shared.gates import queries as gates
from shared.jobs import claims, outcomes, queries
from shared.jobs.outcomes import Backoff, Claimed, Served
from shared.jobs.status import FINAL, TRANSITIONS, Outcome, State
from shared.kinds import KINDS
from shared.providers.base import PermanentError, RateLimitedError, RetryableError, UnknownOutcomeError
from shared.providers.catalog import catalog
from shared.providers.pricing import estimate
from shared.wakeups import Change
from tests import factories
from tests.conftest import SettingsFactory
from tests.integration.shared.jobs.model import (
    BACKOFF,
    ENDS,
    UNIT,
    End,
    Gate,
    Job,
    Move,
    World,
    close,
    orders,
)
from worker.maintenance import Maintenance

EXAMPLES, STEPS = 60, 50
#: So few jobs that most steps meet one again.
FEW = 12
GRACE = UNIT
#: The first one never has a gate.
MODELS = ("gemini-flash", "nano-banana", "nano-banana-pro")
#: What the usual run must have come to, or it proves little.
MILESTONES = {
    *(f"job.{name}" for name in ("queued", "running", "retry_scheduled", "cancel_requested")),
    *(f"job.{state}" for state in FINAL),
    *(f"outcome {outcome}" for outcome in Outcome),
    *(
        "third attempt",
        "told",
        "stale finish",
        "raced",
        "claimed by one of three",
    ),
}
#: Endings that need not be the job's.
MEANWHILE = ("retryable", "rate_limited", "unknown")
#: Beat's other passes, and what the broker has of the messages that were sent.
BEAT = ("rescue", "expire", "rescue", "expire", "missing", "all there")
#: What a client reads in an event.
STATE_AFTER = {
    "job.queued": State.QUEUED,
    "job.retry_scheduled": State.QUEUED,
    "job.running": State.RUNNING,
    "job.cancel_requested": State.RUNNING,
    **{f"job.{state}": state for state in FINAL},
}

# Draws never look at what came of earlier steps, so that a sequence can be repeated and shortened: a number stands
# for whatever is at that place by then.
place = st.integers(0, 4)
places = st.lists(place, min_size=1, max_size=4)
model_name = st.sampled_from([*MODELS[:2], *MODELS[:2], MODELS[2]])
gated_model = st.sampled_from([MODELS[1], MODELS[1], MODELS[2]])
workers = st.sampled_from(["w1", "w2", "w3"])
units = st.sampled_from([UNIT, 2 * UNIT])
cost = st.sampled_from([Decimal(0), Decimal("0.01"), Decimal("0.00000007")])
ends = st.builds(
    End,
    st.sampled_from(
        ["success", *MEANWHILE, "success", *MEANWHILE, *(kind for kind in ENDS if kind != "lost")]
    ),
    cost,
    st.just(UNIT),
)

_TEXT, _INPUT = KINDS["text.generate"], {"prompt": "hello"}
_JOBS = text(f"""
    SELECT {queries.VIEW}, j.waiting_reason AS stored_reason, j.result IS NOT NULL AS has_result,
        extract(epoch FROM j.scheduled_at - now()) AS scheduled, extract(epoch FROM j.expires_at - now()) AS expires,
        extract(epoch FROM j.published_at - now()) AS published, extract(epoch FROM j.lease_until - now()) AS lease,
        ARRAY(SELECT type FROM job_events e WHERE e.job_id = j.id ORDER BY version) AS events,
        ARRAY(SELECT version FROM job_events e WHERE e.job_id = j.id ORDER BY version) AS versions,
        ARRAY(SELECT row_to_json(a) FROM (
            SELECT number, worker, outcome, counted, sent_at IS NOT NULL AS sent, answered_at IS NOT NULL AS answered,
                   cost_usd::text AS cost, finished_at IS NOT NULL AS finished
            FROM attempts WHERE job_id = j.id ORDER BY number) a) AS attempts
    FROM jobs j
""")
_GATES = text("""
    SELECT model, rpm, learned_rpm, max_in_flight, reason, pauses, allowance,
           extract(epoch FROM paused_until - now()) AS paused, extract(epoch FROM next_slot_at - now()) AS slot
    FROM model_gates
""")
#: Time passes: everything that is stored moves into the past.
_AGE = [
    text(
        f"UPDATE {table} SET "
        + ", ".join(f"{name} = {name} - make_interval(secs => :seconds)" for name in names)
    )
    for table, names in {
        "jobs": [
            "created_at",
            "scheduled_at",
            "published_at",
            "started_at",
            "finished_at",
            "expires_at",
            "lease_until",
            "deadline_at",
        ],
        "model_gates": ["learned_at", "paused_until", "next_slot_at"],
    }.items()
]


class EvenBackoff(Backoff):
    """Without its jitter, which decides nothing here."""

    def delay(self, tries: int) -> float:
        return BACKOFF[tries > 1]


class Broker:
    """Stands where maintenance has its doorbell."""

    resting = False
    refuses = False
    depth = 0

    async def ring(self, jobs: Sequence[tuple[UUID, str]]) -> list[UUID]:
        return [job_id for job_id, _ in jobs] if self.refuses else []

    async def depths(self, names: Sequence[str]) -> dict[str, int]:
        return dict.fromkeys(names, self.depth)


class NobodyListens:
    """Stands where maintenance has its wake-ups: nobody waits here."""

    def changed(self, changes: Iterable[Change]) -> None:
        pass


class Lab:
    """A database, and the program's own functions on it."""

    def __init__(self, settings: Settings) -> None:
        self.runner = asyncio.Runner()
        self.database = Database(settings, application="state machine")
        self.broker = Broker()
        self.maintenance = Maintenance(self.database, settings, self.broker, NobodyListens())  # type: ignore[arg-type]
        self.backoff = EvenBackoff(1, 1)
        self.maintenance._backoff = self.backoff
        self.project: UUID = self.run(factories.project(self.database))
        #: What the sequences came to, and how often.
        self.reached: Counter[str] = Counter()

    def run(self, work: Awaitable[Any]) -> Any:
        async def awaited() -> Any:
            return await work

        return self.runner.run(awaited())

    def do(self, work: Callable[[AsyncConnection], Awaitable[Any]]) -> Any:
        return self.run(self.transaction(work))

    async def transaction(self, work: Callable[[AsyncConnection], Awaitable[Any]]) -> Any:
        async with self.database.transaction() as db:
            return await work(db)

    def ask(self, *statements: Any) -> list[list[Row[Any]]]:
        async def ask() -> list[list[Row[Any]]]:
            async with self.database.reading() as db:
                return [list(await db.execute(statement)) for statement in statements]

        found: list[list[Row[Any]]] = self.run(ask())
        return found

    def reset(self) -> None:
        self.broker.refuses, self.broker.depth = False, 0

        async def empty(db: AsyncConnection) -> None:
            for table in ("jobs", "model_gates"):
                await db.execute(text(f"DELETE FROM {table}"))

        self.do(empty)

    def age(self, seconds: int) -> None:
        async def age(db: AsyncConnection) -> None:
            for statement in _AGE:
                await db.execute(statement, {"seconds": seconds})

        self.do(age)

    def close(self) -> None:
        self.run(self.database.close())
        self.runner.close()


class Lives(RuleBasedStateMachine):
    """A few jobs, three workers, beat and a client."""

    def __init__(self, lab: Lab) -> None:
        super().__init__()
        self.lab = lab
        self.reached = lab.reached
        self.world = World(estimate(catalog()[MODELS[0]], _TEXT.to_request(_INPUT, []), datetime.now(UTC)))
        #: What workers were told when they claimed, the newest first; those of long ago included.
        self.claimed: list[Claimed] = []
        self.seen: dict[UUID, Row[Any]] = {}

    @initialize()
    def begin(self) -> None:
        """With something for every rule to do."""
        self.lab.reset()
        for on_unknown in ("retry", "fail"):
            self.submit(1, MODELS[0], "standard", None, None, 3, on_unknown, UNIT)
        self.submit(1, MODELS[1], "standard", UNIT, 3 * UNIT, 3, "retry", UNIT)
        self.claim([1], "w1", UNIT)

    # ---- Clients

    @precondition(lambda self: len(self.world.jobs) < FEW)
    @rule(
        count=st.integers(1, 3),
        model=model_name,
        priority=st.sampled_from(["interactive", "standard", "batch"]),
        scheduled=st.sampled_from([None, UNIT, None, None]),
        expires=st.sampled_from([None, UNIT, 3 * UNIT, None]),
        max_attempts=st.sampled_from([5, 3, 3, 2, 1]),
        on_unknown=st.sampled_from(["retry", "retry", "fail"]),
        timeout=units,
    )
    def submit(
        self,
        count: int,
        model: str,
        priority: str,
        scheduled: int | None,
        expires: int | None,
        max_attempts: int,
        on_unknown: str,
        timeout: int,
    ) -> None:
        queue = f"{'text' if model == MODELS[0] else 'image'}.{priority}"
        jobs = [
            Job(
                uuid7(),
                len(self.world.jobs) + number,
                model,
                priority,
                queue,
                max_attempts,
                on_unknown,
                timeout,
                scheduled=self.world.now + (scheduled or 0),
                expires=None if expires is None else self.world.now + expires,
                published=None,
                reason=None,
            )
            for number in range(count)
        ]
        begun = datetime.now(UTC)
        rows = [self._row(job, begun, scheduled, expires) for job in jobs]
        told = self.lab.do(lambda db: queries.submit(db, rows))
        for job in jobs:
            self.world.submit(job)
        assert [(row.id, row.state) for row in told] == [(job.id, "queued") for job in jobs]

    def _row(self, job: Job, begun: datetime, scheduled: int | None, expires: int | None) -> dict[str, Any]:
        return {
            "id": job.id,
            "project_id": self.lab.project,
            "kind": "text.generate" if job.model == MODELS[0] else "image.generate",
            "model": job.model,
            "priority": job.priority,
            "queue": job.queue,
            "input": _INPUT,
            "warnings": [],
            "max_attempts": job.max_attempts,
            "timeout_seconds": float(job.timeout),
            "on_unknown": job.on_unknown,
            "scheduled_at": begun + timedelta(seconds=scheduled) if scheduled else None,
            "expires_at": begun + timedelta(seconds=expires) if expires else None,
        }

    @rule(at=place, stranger=st.sampled_from([True, False]))
    def cancel(self, at: int, stranger: bool) -> None:
        job_id = self._job(at)
        project = uuid4() if stranger else self.lab.project
        row = self.lab.do(lambda db: queries.cancel(db, project, job_id))
        expected = None if stranger else self.world.cancel(job_id)
        assert (row.state if row else None) == expected

    # ---- Workers

    @rule(at=places, worker=workers, lease=units, noted=st.booleans())
    def claim(self, at: list[int], worker: str, lease: int, noted: bool = False) -> None:
        """Any jobs, also the same one twice, also those that may not run."""
        ids = [self._job(each) for each in at]

        async def both(db: AsyncConnection) -> dict[UUID, Row[Any]]:
            how: dict[str, Any] = {"worker": worker, "lease": lease, "grace": GRACE}
            how["noted"] = ["text.generate"] if noted else []
            claimed, left = await claims.claim(db, ids, **how)
            assert not isinstance(left, Exception)
            at_gates = [job_id for job_id in left if left[job_id] is claims.Left.AT_GATE]
            return claimed | await claims.claim_through_gates(db, at_gates, **how)

        rows = self.lab.do(both)
        assert set(rows) == self.world.claim(ids, worker, lease, GRACE, noted=noted)
        for job_id, row in rows.items():
            assert row.noted == self.world.jobs[job_id].attempts[-1].sent
        self.reached["noted by its claim"] += any(row.noted for row in rows.values())
        self._remember(rows)

    @rule(at=places, lease=units)
    def claim_at_once(self, at: list[int], lease: int) -> None:
        """Three workers, each with a message for each of the jobs: one of them gets it."""
        ids = [self._job(each) for each in at]

        async def claim(worker: str) -> dict[UUID, Row[Any]]:
            async with self.lab.database.transaction() as db:
                return await queries.claim(db, ids, worker=worker, lease=lease, grace=GRACE)

        async def all_three() -> list[dict[UUID, Row[Any]]]:
            return await asyncio.gather(*(claim(name) for name in ("w1", "w2", "w3")))

        answers = self.lab.run(all_three())
        assert sum(map(len, answers)) == len(set().union(*answers)), "claimed twice"
        assert set().union(*answers) == self.world.claim_ungated(ids, "?", lease, GRACE)
        self.reached["claimed by one of three"] += any(answers)
        for name, rows in zip(("w1", "w2", "w3"), answers, strict=True):
            for job_id in rows:
                self.world.jobs[job_id].attempts[-1].worker = name
        for rows in answers:
            self._remember(rows)

    @rule(at=places, estimate=cost, stale=st.booleans())
    def mark_sent(self, at: list[int], estimate: Decimal, stale: bool) -> None:
        held = self._held(at, stale=stale)
        rows = [{"job_id": each.job_id, "number": each.number, "estimate": estimate} for each in held]
        sent = self.lab.do(lambda db: queries.mark_sent(db, rows))
        assert sent == {
            each.job_id for each in held if self.world.mark_sent(each.job_id, each.number, estimate)
        }

    @rule(at=places, lease=units, stale=st.booleans())
    def renew(self, at: list[int], lease: int, stale: bool) -> None:
        held = self._held(at, stale=stale)
        pairs = [(each.job_id, each.number) for each in held]
        renewed = self.lab.do(lambda db: queries.renew(db, pairs, lease=lease))
        answer = {job_id: renewal.cancel for job_id, renewal in renewed.items()}
        assert all(renewal.extended for renewal in renewed.values())
        expected = {
            each.job_id: cancel
            for each in held
            if (cancel := self.world.renew(each.job_id, each.number, lease)) is not None
        }
        assert answer == expected

    @rule(at=place, worker=workers, sent=st.booleans(), end=ends, due=st.booleans())
    def work(self, at: int, worker: str, sent: bool, end: End, due: bool) -> None:
        """A whole attempt, once the job's time has come."""
        if due:
            self.time_passes(UNIT)
        before = len(self.claimed)
        self.claim([at], worker, lease=UNIT)
        if len(self.claimed) > before:
            if sent:
                self.mark_sent([0], end.cost, stale=False)
            self._finish([0], [end], stale=False)

    @rule(at=place, end=ends, stale=st.booleans())
    def finish(self, at: int, end: End, stale: bool) -> None:
        """Of the newest attempts and of those that were taken over long ago."""
        self._finish([at], [end], stale=stale)

    @rule(at=places, each_end=st.lists(ends, min_size=4, max_size=4))
    def finish_several(self, at: list[int], each_end: list[End]) -> None:
        self._finish(at, each_end, stale=False)

    def _finish(self, at: list[int], each_end: list[End], *, stale: bool) -> None:
        held = self._held(at, stale=stale)
        rows = [self._ending(claimed, end) for claimed, end in zip(held, each_end, strict=False)]
        answer = self.lab.do(lambda db: queries.finish(db, rows))
        expected = {}
        for claimed, end in zip(held, each_end, strict=False):
            if (after := self.world.finish(claimed, end)) is not None:
                expected[claimed.job_id] = after
            else:
                self.reached["stale finish"] += 1
        assert {job_id: (row.version, row.state) for job_id, row in answer.items()} == expected

    # ---- Beat

    @rule(seconds=st.sampled_from([UNIT, UNIT, 2 * UNIT, 5 * UNIT]))
    def time_passes(self, seconds: int) -> None:
        self.lab.age(seconds)
        self.world.now += seconds

    @rule(refused=st.booleans(), due=st.booleans())
    def dispatch(self, refused: bool, due: bool) -> None:
        """Once the time of some has come; the broker may refuse the messages."""
        if due:
            self.time_passes(UNIT)
        self.lab.broker.refuses = refused
        sent = self.lab.run(self.lab.maintenance.dispatch_due())
        before = [job.id for job in self.world.jobs.values() if job.published is None]
        assert sent == self.world.dispatch(refused=refused)
        self.lab.broker.refuses = False
        self.reached["told"] += any(self.world.jobs[each].published is not None for each in before)

    @rule(what=st.sampled_from(BEAT))
    def beat(self, what: str) -> None:
        run, maintenance = self.lab.run, self.lab.maintenance
        if what == "rescue":
            assert run(maintenance.rescue()) == self.world.rescue()
        elif what == "expire":
            assert run(maintenance.expire()) == self.world.expire()
        else:
            self.lab.broker.depth = 1000 if what == "all there" else 0
            assert run(maintenance.republish()) == self.world.republish(UNIT, missing=what == "missing")

    # ---- Gates

    @rule(
        what=st.sampled_from(["pause", "recover", "configure", "forget"]),
        model=gated_model,
        seconds=units,
        longest=st.sampled_from([None, 3 * UNIT]),
        reason=st.sampled_from(["rate_limited", "provider_unavailable"]),
        learned=st.sampled_from([None, None, 1, 3]),
        limit=st.sampled_from([None, (1, None), (3, None), (None, 1), (3, 1)]),
    )
    def tend_gates(
        self,
        what: str,
        model: str,
        seconds: int,
        longest: int | None,
        reason: str,
        learned: int | None,
        limit: tuple[int | None, int | None] | None,
    ) -> None:
        if what == "pause":
            self._pause(model, seconds, longest, reason, learned)
        elif what == "recover":
            self.lab.do(lambda db: gates.recover(db, model))
            self.world.recover(model)
        elif what == "configure":
            limits = {model: limit} if limit else {}
            self.lab.do(lambda db: gates.configure(db, limits))
            self.world.configure(limits)
        else:
            self.lab.do(lambda db: gates.remove_open(db, forget_after=2 * UNIT))
            self.world.forget_gates(2 * UNIT)

    def _pause(self, model: str, seconds: int, longest: int | None, reason: str, learned: int | None) -> None:
        self.lab.do(
            lambda db: gates.pause(
                db,
                model,
                seconds=seconds,
                exact=longest is None,
                longest=longest or 0,
                reason=reason,
                learned_rpm=learned,
            )
        )
        self.world.pause(model, seconds, longest, reason, learned)

    # ---- Everything at once

    @rule(
        at=place,
        what=st.lists(
            st.sampled_from(["claim", "finish", "mark_sent", "renew", "rescue", "expire", "cancel"]),
            min_size=2,
            max_size=3,
            unique=True,
        ),
        end=ends,
        lease=units,
    )
    def race(self, at: int, what: list[str], end: End, lease: int) -> None:
        """Transitions of one job at the same time: some order of them must explain every answer, and the job."""
        job_id = self._job(at)
        number = len(self.world.jobs[job_id].attempts)
        own = [each for each in self.claimed if (each.job_id, each.number) == (job_id, number)]
        if not own:
            what = [each for each in what if each not in {"finish", "mark_sent", "renew"}]
        racers = [self._racer(each, job_id, own[0] if own else None, end, lease) for each in what]

        async def run() -> list[Any]:
            return await asyncio.gather(*(act() for act, _ in racers))

        answers = self.lab.run(run())
        rows = {row.id: row for row in self.lab.ask(_JOBS)[0]}
        by_answer = list(zip((variants for _, variants in racers), answers, strict=True))
        for world in self._explanations(by_answer):
            if not list(_differences(world, rows)):
                self.world = world
                self.reached["raced"] += 1
                break
        else:
            raise AssertionError(f"no order explains {what} with {answers}: {rows[job_id]}")
        if "claim" in what and answers[what.index("claim")]:
            row = rows[job_id]
            self._remember_one(
                Claimed(job_id, len(row.attempts), row.snoozes, row.max_attempts, row.on_unknown)
            )

    def _explanations(self, moves: Sequence[tuple[Sequence[Move], Any]]) -> Any:
        """Each world that an order of the moves leads to, all answers being as they were."""
        answers = {id(move): answer for variants, answer in moves for move in variants}
        for order in orders([variants for variants, _ in moves]):
            world = deepcopy(self.world)
            if all(move(world) == answers[id(move)] for move in order):
                yield world

    def _racer(
        self, what: str, job_id: UUID, own: Claimed | None, end: End, lease: int
    ) -> tuple[Callable[[], Awaitable[Any]], list[Move]]:
        """What is done and answered, and what the model says to it. Some pass over what another has locked."""
        lab = self.lab

        def one(work: Callable[[AsyncConnection], Awaitable[Any]]) -> Callable[[], Awaitable[Any]]:
            return lambda: lab.transaction(work)

        async def claim(db: AsyncConnection) -> bool:
            return bool(await queries.claim(db, [job_id], worker="racer", lease=lease, grace=GRACE))

        async def cancel(db: AsyncConnection) -> str | None:
            row = await queries.cancel(db, lab.project, job_id)
            return row.state if row else None

        if what == "claim":
            taken: list[Move] = [lambda world: bool(world.claim_ungated([job_id], "racer", lease, GRACE))]
            return one(claim), [*taken, lambda _: False]
        if what == "cancel":
            return one(cancel), [lambda world: world.cancel(job_id)]
        if what == "rescue":
            return lab.maintenance.rescue, [lambda world: world.rescue(), lambda world: world.rescue(job_id)]
        if what == "expire":
            return lab.maintenance.expire, [lambda world: world.expire(), lambda world: world.expire(job_id)]
        assert own is not None
        return self._workers_racer(what, own, end, lease, one)

    def _workers_racer(
        self,
        what: str,
        own: Claimed,
        end: End,
        lease: int,
        one: Callable[[Callable[[AsyncConnection], Awaitable[Any]]], Callable[[], Awaitable[Any]]],
    ) -> tuple[Callable[[], Awaitable[Any]], list[Move]]:
        job_id, number, estimate = own.job_id, own.number, Decimal("0.5")
        row = self._ending(own, end)

        async def finish(db: AsyncConnection) -> tuple[int, str] | str | None:
            after = (await queries.finish(db, [row])).get(job_id)
            if after is None and await queries.present(db, [(job_id, number)]):
                return "passed over"
            return (after.version, after.state) if after else None

        async def mark_sent(db: AsyncConnection) -> bool | str:
            note = {"job_id": job_id, "number": number, "estimate": estimate}
            sent = bool(await queries.mark_sent(db, [note]))
            if not sent and (await queries.present(db, [(job_id, number)])).get(job_id):
                return "passed over"
            return sent

        async def renew(db: AsyncConnection) -> bool | None:
            renewal = (await queries.renew(db, [(job_id, number)], lease=lease)).get(job_id)
            return None if renewal is None else renewal.cancel

        match what:
            case "finish":
                finished: list[Move] = [lambda world: world.finish(own, end)]
                return one(finish), [*finished, lambda _: "passed over"]
            case "mark_sent":
                noted: list[Move] = [lambda world: world.mark_sent(job_id, number, estimate)]
                return one(mark_sent), [*noted, lambda _: "passed over"]
            case _:
                renewed: list[Move] = [lambda world: world.renew(job_id, number, lease)]
                return one(renew), [*renewed, lambda world: world.look(job_id, number)]

    # ---- What must hold

    @invariant()
    def holds(self) -> None:
        found, found_gates = self.lab.ask(_JOBS, _GATES)
        rows = {row.id: row for row in found}
        wrong = [
            *(f"{row.id}: {problem}" for row in rows.values() for problem in _wrong(row)),
            *(
                f"{row.id}: {problem}"
                for row in rows.values()
                for problem in _not_after(self.seen.get(row.id), row)
            ),
            *_differences(self.world, rows),
            *_gate_differences(self.world, found_gates),
        ]
        assert not wrong, "\n".join(wrong)
        self.reached["steps"] += 1
        self._note(rows)
        self.seen = rows

    def _note(self, rows: dict[UUID, Row[Any]]) -> None:
        for row in rows.values():
            before = self.seen.get(row.id)
            self.reached.update(row.events[len(before.events) if before else 0 :])
            self.reached["third attempt"] += row.attempt == 3 and (not before or before.attempt < 3)
            if before and row.attempts != before.attempts:
                self.reached.update(f"outcome {each['outcome']}" for each in row.attempts if each["finished"])
            if before and before.published and not row.published and row.events == before.events:
                self.reached["parked"] += 1

    # ---- Help

    def _job(self, at: int) -> UUID:
        """Those that live come first, in them the newest."""
        newest = list(reversed(self.world.jobs.values()))
        ids = [job.id for job in sorted(newest, key=lambda job: job.state in FINAL)]
        return ids[at % len(ids)]

    def _held(self, at: list[int], *, stale: bool) -> list[Claimed]:
        """Claims, one of each job: a worker never writes about two in one statement. Those that hold come first.

        Stale ones are another worker's by now, or nobody's.
        """

        def rank(claimed: Claimed) -> int:
            job = self.world.jobs[claimed.job_id]
            holds = len(job.attempts) == claimed.number
            return 2 if job.state != State.RUNNING else int(holds is stale)

        ranked = sorted(self.claimed, key=rank)
        found = {each.job_id: each for each in (ranked[number % len(ranked)] for number in at)}
        return list(found.values())

    def _remember(self, rows: dict[UUID, Row[Any]]) -> None:
        for job_id in sorted(rows, key=list(self.world.jobs).index):
            row = rows[job_id]
            self._remember_one(
                Claimed(job_id, row.attempt, row.snoozes, row.max_attempts, on_unknown=row.on_unknown)
            )

    def _remember_one(self, claimed: Claimed) -> None:
        self.claimed.insert(0, claimed)

    def _ending(self, claimed: Claimed, end: End) -> dict[str, Any]:
        """As a worker makes it, in ``outcomes``."""
        served, backoff = Served(provider="simulator", cost=end.cost), self.lab.backoff
        row = outcomes.succeeded(claimed, {"text": "done"}, served)
        match end.kind:
            case "success":
                return row
            case "not_storable":
                return outcomes.not_storable(row, "DataError")
            case "cancelled" | "cancelled_unsent":
                return outcomes.after_cancel(claimed, served, provider_called=end.kind == "cancelled")
            case "given_back":
                return outcomes.given_back(claimed)
            case "retryable":
                error: Any = RetryableError("no route")
            case "retryable_answered":
                error = RetryableError("503", status=503)
            case "rate_limited":
                error = RateLimitedError("429", delay=end.delay, status=429)
            case "permanent":
                error = PermanentError("400", reason="invalid_request", status=400)
            case _:
                error = UnknownOutcomeError("reset")
        return outcomes.after_error(claimed, error, served, backoff)


def _wrong(row: Row[Any]) -> Any:
    """What no job may ever be, whatever was done to it."""
    attempts, final = row.attempts, row.state in FINAL
    if row.versions != list(range(1, row.version + 1)):
        yield f"version {row.version} has the events {row.versions}"
    path = [STATE_AFTER[event] for event in row.events]
    if path[0] != State.QUEUED or path[-1] != row.state:
        yield f"is {row.state} after {row.events}"
    for (before, after), event in zip(pairwise(path), row.events[1:], strict=True):
        asked_only = event == "job.cancel_requested" and before == after
        if after not in TRANSITIONS[before] and not asked_only:
            yield f"became {after} from {before}"
    if [each["number"] for each in attempts] != list(range(1, row.attempt + 1)):
        yield f"attempt {row.attempt} of {[each['number'] for each in attempts]}"
    is_open = [each["number"] for each in attempts if each["outcome"] is None]
    if is_open != ([row.attempt] if row.state == State.RUNNING else []):
        yield f"is {row.state} with the attempts {is_open} open"
    won = [each["number"] for each in attempts if each["outcome"] == "succeeded"]
    if won != ([row.attempt] if row.state == State.SUCCEEDED else []):
        yield f"is {row.state} with successes {won}"
    counted = sum(each["counted"] for each in attempts)
    if counted != row.attempt - row.snoozes or counted > row.max_attempts:
        yield f"{counted} attempts count: {row.attempt} - {row.snoozes} of {row.max_attempts}"
    if row.cost_usd != sum((Decimal(each["cost"]) for each in attempts), Decimal(0)):
        yield f"cost {row.cost_usd} is not the sum of its attempts"
    if (row.finished_at is not None) != final or (row.lease is not None) != (row.state == State.RUNNING):
        yield f"is {row.state}, finished at {row.finished_at}, lease {row.lease}"
    if row.has_result != (row.state == State.SUCCEEDED):
        yield f"is {row.state} with result: {row.has_result}"
    yield from _wrong_wait(row)


def _wrong_wait(row: Row[Any]) -> Any:
    waits = row.state == State.QUEUED and row.scheduled > 0
    if waits and row.waiting_reason is None:
        yield "waits for its time and does not say why"
    if (row.waiting_reason or row.stored_reason) and row.state != State.QUEUED:
        yield f"is {row.state} and says that it waits: {row.stored_reason}"
    if (row.waiting_until is not None) != waits:
        yield f"waits until {row.waiting_until}, scheduled in {row.scheduled} s"
    if row.published is not None and row.state != State.QUEUED:
        yield f"is {row.state} and counts as published"


def _not_after(before: Row[Any] | None, now: Row[Any]) -> Any:
    """What was told stays true."""
    if before is None:
        return
    if now.events[: len(before.events)] != before.events:
        yield f"its events were {before.events} and are {now.events}"
    if before.state in FINAL and (before.state, before.version, before.attempts) != (
        now.state,
        now.version,
        now.attempts,
    ):
        yield f"was {before.state} in version {before.version} and changed"
    done = [each for each in before.attempts if each["outcome"] is not None]
    if now.attempts[: len(done)] != done:
        yield "an attempt that had ended changed"


def _differences(world: World, rows: dict[UUID, Row[Any]]) -> Any:
    """Between the model and the database."""
    if set(world.jobs) != set(rows):
        yield f"jobs were lost or found: {set(world.jobs) ^ set(rows)}"
        return
    for job_id, job in world.jobs.items():
        row = rows[job_id]
        is_now = (row.state, row.events, row.snoozes, row.cancel_requested_at is not None, row.cost_usd)
        if is_now != (job.state, job.events, job.snoozes, job.cancel, job.cost):
            yield f"{job_id}: is {is_now}, should be {job}"
        attempts = [
            (each["worker"], each["outcome"], each["sent"], each["answered"], each["counted"])
            for each in row.attempts
        ]
        wanted = [
            (each.worker, each.outcome, each.sent, each.answered, each.counted) for each in job.attempts
        ]
        if attempts != wanted:
            yield f"{job_id}: its attempts are {attempts}, should be {wanted}"
        if job.state == "queued":
            shown = job.reason if job.scheduled > world.now or job.published is None else None
            if row.waiting_reason != shown:
                yield f"{job_id}: says that it waits for {row.waiting_reason}, should be {shown}"
        times = {"scheduled": job.scheduled, "expires": job.expires}
        times |= {"published": job.published, "lease": job.lease}
        for name, expected in times.items():
            if not close(expected, getattr(row, name), world.now):
                yield f"{job_id}: {name} is {getattr(row, name)} s from now, should be {expected} at {world.now}"


def _gate_differences(world: World, rows: list[Row[Any]]) -> Any:
    if {row.model for row in rows} != set(world.gates):
        yield f"gates are {[row.model for row in rows]}, should be {set(world.gates)}"
        return
    for row in rows:
        gate: Gate = world.gates[row.model]
        is_now = (row.rpm, row.learned_rpm, row.max_in_flight, row.reason, row.pauses, row.allowance)
        wanted = (gate.rpm, gate.learned, gate.in_flight, gate.reason, gate.pauses, gate.allowance)
        if is_now != wanted:
            yield f"gate of {row.model}: {is_now}, should be {wanted}"
        if not close(gate.paused, row.paused, world.now) or not close(gate.slot, row.slot, world.now):
            yield f"gate of {row.model}: paused for {row.paused} s, next slot in {row.slot} s, should be {gate}"


@pytest.fixture
def state_machine_settings(make_settings: SettingsFactory) -> Settings:
    return make_settings(republish_after_seconds=UNIT)


def _run(settings: Settings, profile: hypothesis_settings, chosen: int | None) -> Counter[str]:
    lab = Lab(settings)

    class Here(Lives):
        def __init__(self) -> None:
            super().__init__(lab)

    try:
        run_state_machine_as_test(Here if chosen is None else seed(chosen)(Here), settings=profile)
    finally:
        print(dict(lab.reached.most_common()))
        lab.close()
    return lab.reached


_PROFILE = hypothesis_settings(
    deadline=None,
    database=None,
    stateful_step_count=STEPS,
    print_blob=False,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)


def test_every_interleaving_keeps_the_invariants(state_machine_settings: Settings) -> None:
    print(f"{EXAMPLES} sequences of up to {STEPS} steps, always the same")
    profile = hypothesis_settings(_PROFILE, derandomize=True, max_examples=EXAMPLES)
    reached = _run(state_machine_settings, profile, None)
    assert not MILESTONES - {name for name, times in reached.items() if times}


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif("STATE_MACHINE_EXAMPLES" not in os.environ, reason="set STATE_MACHINE_EXAMPLES")
def test_many_more_interleavings(state_machine_settings: Settings) -> None:
    examples = int(os.environ["STATE_MACHINE_EXAMPLES"])
    chosen = int(os.environ.get("STATE_MACHINE_SEED") or SystemRandom().randrange(1, 10**6))
    print(f"STATE_MACHINE_EXAMPLES={examples} STATE_MACHINE_SEED={chosen}")
    profile = hypothesis_settings(_PROFILE, max_examples=examples, stateful_step_count=2 * STEPS)
    _run(state_machine_settings, profile, chosen)
