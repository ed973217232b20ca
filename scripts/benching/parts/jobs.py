"""``drain``, ``inflight`` and ``latency``: whole jobs, from the queue through a provider's call to the record."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from scripts import ports
from scripts.benching.bench import Bench, BenchError
from scripts.benching.figures import Sample, percentile, waves
from scripts.benching.load import Spec
from scripts.benching.meters import Meter, rss_mib
from scripts.benching.parts import turns

#: Seconds of a call, and how many are in flight on one worker.
IN_FLIGHT = ((1.0, 500), (5.0, 1000))
#: Jobs under way at once where calls take no time.
DRAIN_CONCURRENCY = 100
#: Seconds until a stuck run is given up, beside what it should take.
_PATIENCE = 120.0
_LATENCY_DELAY = 0.05


class Engine(Protocol):
    """Something that runs jobs."""

    @property
    def name(self) -> str: ...
    @property
    def pids(self) -> dict[str, int]: ...
    def worker(self, concurrency: int) -> AbstractContextManager[dict[str, int]]: ...
    def fill(self, jobs: int) -> None: ...
    def first_claim(self) -> float: ...
    def finished(self, jobs: int, seconds: float) -> list[float]: ...
    def idle(self, jobs: int) -> dict[str, list[float]]: ...
    def clear(self) -> None: ...


@dataclass(frozen=True)
class Loop:
    """The floor: an event loop that makes the same calls and keeps nothing; no engine on one core can do better."""

    bench: Bench
    name: str = "bare loop"

    def calls(self, jobs: int, width: int) -> dict[str, float]:
        """Calls a second, and CPU of the caller and the provider, in milliseconds a call."""
        spec = Spec(
            host=ports.HOST,
            port=self.bench.provider.port,
            method="POST",
            paths=["/v1beta/models/loopback:generateContent"],
            headers={},
            body='{"contents": [{"parts": [{"text": "Name a fruit."}]}]}',
            connections=width,
            count=jobs,
        )
        meter = Meter({"provider": self.bench.provider_pid})
        result = self.bench.load(spec, meter.begin)
        spent = {"worker": result["cpu"], **meter.spent()}
        figures = {"jobs/s": result["all"] / result["seconds"]}
        figures["CPU ms/job"] = sum(spent.values()) * 1000 / jobs
        return figures | {f"CPU {name}": seconds * 1000 / jobs for name, seconds in spent.items()}


def drain(bench: Bench, engines: Sequence[Engine], part: str = "drain") -> None:
    """Calls that take no time: what the engine itself costs. From the first claim to the last record."""
    for repeat in range(bench.effort.repeats):
        for engine in turns(engines, repeat):
            figures = _drained(bench, engine, bench.effort.jobs)
            bench.note(Sample(part, f"{bench.effort.jobs:,} jobs", engine.name, repeat, figures))
        bench.provider.reset(0.0)
        figures = Loop(bench).calls(bench.effort.jobs, DRAIN_CONCURRENCY)
        bench.note(Sample(part, f"{bench.effort.jobs:,} jobs", Loop.name, repeat, figures))


def _drained(bench: Bench, engine: Engine, jobs: int) -> dict[str, float]:
    engine.clear()
    bench.provider.reset(0.0)
    engine.fill(jobs)
    bench.settle()
    with engine.worker(DRAIN_CONCURRENCY) as worker:
        meter = Meter(worker | engine.pids | bench.pids | {"provider": bench.provider_pid})
        bench.provider.wait(1, _PATIENCE)
        meter.begin()
        bench.provider.wait(jobs, _PATIENCE)
        finished = engine.finished(jobs, _PATIENCE)
        spent = meter.spent()
        memory = sum(rss_mib(pid) for pid in worker.values())
    _require_calls(bench, engine, jobs)
    figures = {"jobs/s": jobs / (max(finished) - engine.first_claim())}
    figures["CPU ms/job"] = sum(spent.values()) * 1000 / jobs
    figures |= {f"CPU {name}": seconds * 1000 / jobs for name, seconds in spent.items()}
    return figures | {"worker MiB": memory}


def inflight(
    bench: Bench,
    engines: Sequence[Engine],
    cases: Sequence[tuple[float, int]] = IN_FLIGHT,
    part: str = "inflight",
) -> None:
    """Calls that take their time, as many at once as the worker may have: what of the ideal rate is reached."""
    for repeat in range(bench.effort.repeats):
        for delay, width in cases:
            case = f"{delay:g} s calls, {width:,} in flight"
            for engine in turns(engines, repeat):
                figures = _flown(bench, engine, delay, width)
                bench.note(Sample(part, case, engine.name, repeat, figures))
            bench.provider.reset(delay)
            figures = Loop(bench).calls(4 * width, width)
            of_ideal = {"of ideal": figures["jobs/s"] * delay / width}
            bench.note(Sample(part, case, Loop.name, repeat, of_ideal | figures))


def _flown(bench: Bench, engine: Engine, delay: float, width: int) -> dict[str, float]:
    jobs = width * max(4, 2 + round(2 * bench.effort.seconds / delay))
    engine.clear()
    bench.provider.reset(delay)
    engine.fill(jobs)
    bench.settle()
    with engine.worker(width) as worker:
        meter = Meter(worker | engine.pids | bench.pids | {"provider": bench.provider_pid})
        bench.provider.wait(1, _PATIENCE)
        meter.begin()
        bench.provider.wait(jobs // 2, _PATIENCE)
        memory = sum(rss_mib(pid) for pid in worker.values())
        bench.provider.wait(jobs, _PATIENCE)
        finished = engine.finished(jobs, _PATIENCE)
        spent = meter.spent()
    _require_calls(bench, engine, jobs)
    rate = waves(finished, width)
    figures = {"of ideal": rate / (width / delay), "jobs/s": rate}
    figures |= {"most in flight": bench.provider.stats()["most_in_flight"], "worker MiB": memory}
    figures["CPU ms/job"] = sum(spent.values()) * 1000 / jobs
    return figures | {f"CPU {name}": seconds * 1000 / jobs for name, seconds in spent.items()}


def latency(bench: Bench, engines: Sequence[Engine], part: str = "latency") -> None:
    """One job at a time, on a stack that has nothing else to do."""
    jobs = max(20, round(20 * bench.effort.seconds))
    for repeat in range(bench.effort.repeats):
        for engine in turns(engines, repeat):
            engine.clear()
            bench.provider.reset(_LATENCY_DELAY)
            with engine.worker(DRAIN_CONCURRENCY):
                time.sleep(1.0)  # what happens once, after the first heartbeat, is over
                seen = engine.idle(jobs)
            for what, seconds in seen.items():
                ordered = sorted(seconds)
                figures = {f"p{share} ms": percentile(ordered, share / 100) * 1000 for share in (50, 95, 99)}
                bench.note(Sample(part, what, engine.name, repeat, figures))


def _require_calls(bench: Bench, engine: Engine, jobs: int) -> None:
    calls = bench.provider.stats()["calls"]
    if calls != jobs:
        raise BenchError(f"{engine.name}: {jobs} jobs made {calls} calls")
