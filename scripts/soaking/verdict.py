"""Whether a soak went well: invariant I, bills, connections and growth, each as a line of a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import httpx

from scripts.invariant import Facts, gather, violations
from scripts.soaking.load import Told
from scripts.soaking.measure import LONG_ENOUGH, Connections, Life

#: MiB a minute. A process needs some minutes to come to its working size.
_SLOPE_AT_MOST, _WARM_AFTER, _SLOPE_WHILE_WARMING = 2.0, 300.0, 10.0
#: Seconds. A process that lived so long and is flat shows what size its kind comes to: one that was ended earlier, and
#: is still on its way there, does not leak.
_GROWN_UP = 900.0
#: MiB. Less is no growth, whatever its slope: one step of the allocator tilts the line of a short life.
_GROWTH_AT_LEAST = 8.0
_FILES_MORE_AT_MOST = 10
#: Beyond a worker's pool, which opens a thread for each job under way and keeps it.
_OTHER_THREADS = 20
#: Of a process without such a pool: its few threads are there soon, and then no more come.
_THREADS_MORE_AT_MOST = 5
#: A process keeps some connections to Redis open, and opens a few more for what comes seldom.
_REDIS_MORE_AT_MOST = 5
#: The servers and the simulator are not ours to judge, or no part of the product.
_NOT_JUDGED = {"simulator", "postgres", "valkey"}
#: An attempt that ended so may have been paid for without having brought the job to its end.
_EXPLAINS_A_BILL = {"unknown", "failed", "cancelled"}


@dataclass
class Verdict:
    """``wrong`` is empty where all went well; ``figures`` is for the report."""

    wrong: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)

    def require(self, what: bool, otherwise: str) -> None:
        if not what:
            self.wrong.append(otherwise)


def judge_jobs(verdict: Verdict, database_url: str, simulator_url: str, told: Mapping[str, Told]) -> None:
    """Jobs, calls, bills, artifacts, and what clients were told."""
    counted = httpx.get(f"{simulator_url}/sim/calls", trust_env=False, timeout=60).json()
    facts = gather(database_url, counted["by_job"], told)
    verdict.require(bool(facts.told), "no job was accepted")
    verdict.require(counted["forgotten_jobs"] == 0, "the simulator forgot jobs: its counters prove nothing")
    verdict.wrong += violations(facts)
    outcomes = Counter(str(row["outcome"]) for rows in facts.attempts.values() for row in rows)
    verdict.figures["jobs"] = {
        "accepted": len(facts.told),
        "in the database": len(facts.jobs),
        "by state": dict(Counter(str(job["state"]) for job in facts.jobs.values())),
        "by error": dict(
            Counter(job["error"]["code"] for job in facts.jobs.values() if job["state"] == "failed")
        ),
    }
    verdict.figures["attempts"] = {"all": outcomes.total(), "by outcome": dict(outcomes)}
    verdict.figures["artifacts"] = {
        "of jobs": sum(map(len, facts.artifacts.values())),
        "bytes without one": facts.stray_bytes,
        "without their bytes": facts.bare_artifacts,
    }
    verdict.figures["calls"] = {"made": facts.made, **_bills(verdict, facts, counted["billed_by_job"])}


def _bills(verdict: Verdict, facts: Facts, billed: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    """Every bill but a job's one useful one must belong to an attempt that says why it came to nothing."""
    sent = sum(row["sent_at"] is not None for rows in facts.attempts.values() for row in rows)
    extra: Counter[str] = Counter()
    unexplained = 0
    for job_id, by_attempt in billed.items():
        outcomes = {str(row["number"]): row["outcome"] for row in facts.attempts.get(job_id, [])}
        wasted = [outcomes.get(number) for number in by_attempt if outcomes.get(number) != "succeeded"]
        extra.update(str(outcome) for outcome in wasted)
        odd = [outcome for outcome in wasted if outcome not in _EXPLAINS_A_BILL]
        twice = [number for number, times in by_attempt.items() if times > 1]
        unexplained += len(odd) + len(twice)
        if odd or twice:
            verdict.wrong.append(
                f"{job_id}: was billed for attempts {dict(by_attempt)}, which are {outcomes}"
            )
    total = sum(sum(by_attempt.values()) for by_attempt in billed.values())
    verdict.require(total <= sent, f"{total} calls were billed, and only {sent} attempts were noted as sent")
    return {
        "attempts noted as sent": sent,
        "billed": total,
        "jobs billed": len(billed),
        "billed without success, by outcome": dict(extra),
        "unexplained": unexplained,
    }


def judge_connections(verdict: Verdict, start: Connections, end: Connections, pool_size: int) -> None:
    """Pools keep what they have opened, up to their size; more than that, or an open transaction, is a leak."""
    for name, count in end.by_application.items():
        verdict.require(
            count <= max(pool_size, start.by_application.get(name, 0)),
            f"{name} ends with {count} connections, its pool has {pool_size}",
        )
    strangers = set(end.by_application) - set(start.by_application)
    verdict.require(not strangers, f"connections of {strangers} were not there at the start")
    verdict.require(
        end.in_transaction == 0, f"{end.in_transaction} connections sit in a transaction at the end"
    )
    most = start.of_redis + _REDIS_MORE_AT_MOST * len(start.by_application)
    verdict.require(
        end.of_redis <= most, f"Redis ends with {end.of_redis} connections, {start.of_redis} at the start"
    )
    verdict.figures["connections"] = {"start": asdict(start), "end": asdict(end)}


def judge_growth(verdict: Verdict, lives: Sequence[Life], concurrency: int) -> None:
    """The longest life of each process; ``concurrency`` is how many jobs a worker runs at once."""
    figures = verdict.figures["processes"] = {}
    sizes = _grown_up_sizes(lives)
    for life in lives:
        if not life.samples:
            continue
        judged = life.name not in _NOT_JUDGED and life.seconds >= LONG_ENOUGH
        size = sizes.get(_kind(life), 0.0) if life.seconds < _GROWN_UP else 0.0
        problems = list(_growth(life, concurrency, size)) if judged else []
        verdict.wrong += problems
        first, last = life.samples[0], life.samples[-1]
        figures[life.name] = {
            "lived": round(life.seconds),
            "rss first": round(first.rss),
            "rss middle": round(life.second_half[0].rss),
            "rss last": round(last.rss),
            "rss most": round(max(sample.rss for sample in life.samples)),
            "slope": round(life.slope(), 2),
            "threads first": first.threads,
            "threads last": last.threads,
            "threads most": max(sample.threads for sample in life.samples),
            "files first": first.files,
            "files last": last.files,
            "files rise": int(life.floor_rise(lambda sample: sample.files)),
            "verdict": "not judged" if not judged else "grows" if problems else "flat",
        }


def _kind(life: Life) -> str:
    return life.name.partition("-")[0]


def _rises(life: Life) -> bool:
    most = _SLOPE_AT_MOST if life.seconds >= _WARM_AFTER else _SLOPE_WHILE_WARMING
    slope = life.slope()
    return slope > most and slope * life.seconds / 2 / 60 > _GROWTH_AT_LEAST


def _largest(life: Life) -> float:
    return max(sample.rss for sample in life.samples)


def _grown_up_sizes(lives: Sequence[Life]) -> dict[str, float]:
    """MiB, by kind: the most that a process which lived long and did not grow has had."""
    grown_up = [life for life in lives if life.seconds >= _GROWN_UP and not _rises(life)]
    return {
        _kind(life): max(_largest(each) for each in grown_up if _kind(each) == _kind(life))
        for life in grown_up
    }


def _growth(life: Life, concurrency: int, size: float) -> Iterator[str]:
    """What is wrong with one process, in words; up to ``size`` (MiB) it may grow."""
    slope, threads = life.slope(), max(sample.threads for sample in life.samples)
    most = _SLOPE_AT_MOST if life.seconds >= _WARM_AFTER else _SLOPE_WHILE_WARMING
    if _rises(life) and _largest(life) > size:
        yield f"{life.name} grows by {slope:.1f} MiB a minute (at most {most:.0f})"
    if threads > concurrency + _OTHER_THREADS:
        yield f"{life.name} has had {threads} threads"
    more_threads = life.floor_rise(lambda sample: sample.threads)
    if not life.name.startswith("worker-") and more_threads > _THREADS_MORE_AT_MOST:
        yield f"{life.name} has {more_threads:.0f} threads more than before"
    if (opened := life.floor_rise(lambda sample: sample.files)) > _FILES_MORE_AT_MOST:
        yield f"{life.name} has {opened:.0f} open files more than before"
