"""The soak test's judgement: it must see a leak and a bill without a reason, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from random import Random
from typing import Any

import pytest

from scripts.invariant import Facts, violations
from scripts.soaking import verdict
from scripts.soaking.load import Told
from scripts.soaking.measure import Connections, Life, Sample
from scripts.soaking.verdict import Verdict


def life(
    minutes: float,
    *,
    slope: float = 0.0,
    files_leaked: float = 0.0,
    threads_leaked: float = 0.0,
    name: str = "worker-1",
) -> Life:
    """A process that warms up by 30 MiB within a minute, under a load that comes and goes."""
    random = Random(1)
    samples = [
        Sample(
            at=second,
            rss=120 + min(second / 2, 30) + slope * second / 60 + random.uniform(0, 4),
            threads=10 + int(threads_leaked * second / 60),
            files=int(20 + random.choice([0, 15, 40]) + files_leaked * second / 60),
        )
        for second in range(0, int(minutes * 60), 3)
    ]
    return Life(name, 1, samples)


@pytest.mark.parametrize("minutes", [4, 20])
def test_what_warms_up_and_stays_is_no_leak(minutes: float) -> None:
    found = Verdict()
    verdict.judge_growth(found, [life(minutes)], 50)
    assert found.wrong == []
    figures = found.figures["processes"]["worker-1"]
    assert (figures["lived"], figures["verdict"]) == (minutes * 60 - 3, "flat")


def test_one_step_of_the_allocator_in_a_short_life_is_no_leak() -> None:
    found, short = Verdict(), life(5.2)
    short.samples = [replace(each, rss=each.rss + (5 if each.at > 235 else 0)) for each in short.samples]
    assert short.slope() > 2
    verdict.judge_growth(found, [short], 50)
    assert found.wrong == []


def test_a_slow_leak_of_memory_is_seen() -> None:
    found = Verdict()
    verdict.judge_growth(found, [life(20, slope=3)], 50)
    assert [problem.partition(" by ")[0] for problem in found.wrong] == ["worker-1 grows"]
    assert found.figures["processes"]["worker-1"]["verdict"] == "grows"


@pytest.mark.parametrize("leak", [0.0, 3.0])
def test_a_young_worker_may_grow_to_the_size_of_an_old_one_that_is_flat(leak: float) -> None:
    found, young = Verdict(), life(9, slope=3, name="worker-2")
    elder = life(20, slope=leak)
    elder.samples = [replace(each, rss=each.rss + 35) for each in elder.samples]
    verdict.judge_growth(found, [elder, young], 50)
    assert [problem.partition(" by ")[0] for problem in found.wrong] == (
        ["worker-1 grows", "worker-2 grows"] if leak else []
    )


def test_a_young_worker_that_outgrows_the_old_one_leaks() -> None:
    found = Verdict()
    verdict.judge_growth(found, [life(20), life(14, slope=6, name="worker-2")], 50)
    assert [problem.partition(" by ")[0] for problem in found.wrong] == ["worker-2 grows"]


def test_a_slow_leak_of_files_is_seen_through_the_bursts() -> None:
    found = Verdict()
    verdict.judge_growth(found, [life(20, files_leaked=3)], 50)
    assert len(found.wrong) == 1
    assert "open files more" in found.wrong[0]


def test_threads_without_an_end_are_seen() -> None:
    found, threads = Verdict(), life(20)
    threads.samples = [replace(each, threads=10 + number) for number, each in enumerate(threads.samples)]
    verdict.judge_growth(found, [threads], 50)
    assert found.wrong == ["worker-1 has had 409 threads"]


def test_a_slow_leak_of_threads_is_seen_where_there_is_no_pool() -> None:
    found = Verdict()
    verdict.judge_growth(found, [life(20, threads_leaked=1, name="api")], 50)
    assert found.wrong == ["api has 7 threads more than before"]


def test_the_simulator_and_the_short_lived_are_not_judged() -> None:
    found = Verdict()
    verdict.judge_growth(found, [life(20, slope=50, name="simulator"), life(0.5, slope=50)], 50)
    assert found.wrong == []
    assert set(found.figures["processes"]) == {"simulator", "worker-1"}


def test_connections_may_fill_their_pool_and_no_more() -> None:
    start, found = Connections({"api": 1, "beat": 1}, 0), Verdict()
    verdict.judge_connections(found, start, Connections({"api": 10, "beat": 1}, 0), 10)
    assert found.wrong == []
    verdict.judge_connections(found, start, Connections({"api": 11, "beat": 1, "nobody": 1}, 2), 10)
    assert len(found.wrong) == 3


def test_connections_to_redis_may_be_a_few_more() -> None:
    start, found = Connections({"api": 1, "beat": 1}, 0, of_redis=8), Verdict()
    verdict.judge_connections(found, start, replace(start, of_redis=18), 10)
    assert found.wrong == []
    verdict.judge_connections(found, start, replace(start, of_redis=19), 10)
    assert found.wrong == ["Redis ends with 19 connections, 8 at the start"]


def facts(**attempts: list[dict[str, Any]]) -> Facts:
    jobs = {
        job_id: {"id": job_id, "state": rows[-1]["outcome"], "attempt": len(rows)}
        for job_id, rows in attempts.items()
    }
    return Facts(jobs, attempts, {}, {}, 0, 0, {}, {})


def attempt(number: int, outcome: str, *, sent: bool = True) -> dict[str, Any]:
    return {"number": number, "outcome": outcome, "sent_at": 1 if sent else None, "cost_usd": Decimal(0)}


@pytest.mark.parametrize("first", ["unknown", "failed"])
def test_a_second_bill_after_an_attempt_that_came_to_nothing_is_explained(first: str) -> None:
    found = Verdict()
    bills = verdict._bills(
        found, facts(a=[attempt(1, first), attempt(2, "succeeded")]), {"a": {"1": 1, "2": 1}}
    )
    assert found.wrong == []
    assert (bills["billed"], bills["unexplained"]) == (2, 0)
    assert bills["billed without success, by outcome"] == {first: 1}


@pytest.mark.parametrize(
    ("rows", "billed"),
    [
        ([attempt(1, "lost", sent=False), attempt(2, "succeeded")], {"1": 1, "2": 1}),
        ([attempt(1, "succeeded")], {"1": 2}),
        ([attempt(1, "succeeded")], {"1": 1, "2": 1}),
    ],
    ids=["lost before the call", "one attempt, two bills", "an attempt that nobody knows"],
)
def test_a_bill_without_a_reason_is_wrong(rows: list[dict[str, Any]], billed: dict[str, int]) -> None:
    found = Verdict()
    bills = verdict._bills(found, facts(a=rows), {"a": billed})
    assert bills["unexplained"] == 1
    assert found.wrong


def test_an_accepted_job_that_is_gone_is_a_violation() -> None:
    gone = facts()
    gone.told = {"a": Told(0.0)}
    assert violations(gone) == ["a: was accepted and is not in the database"]
