"""``submit`` and ``poll``: one API process under a closed loop of kept-alive connections, beside an empty handler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from scripts.benching.bench import Bench, BenchError
from scripts.benching.figures import Sample
from scripts.benching.load import Spec
from scripts.benching.meters import Meter
from scripts.benching.parts import turns
from scripts.benching.plantain import Plantain

#: What people and dashboards ask for, by how the report calls it.
LISTS = {
    "newest 50": "/api/v1/jobs?limit=50",
    "failed ones": "/api/v1/jobs?state=failed",
    "search": "/api/v1/jobs?q=fruit",
    "search without a match": "/api/v1/jobs?q=zzqqxx",
    "summary": "/api/v1/jobs/summary",
}
#: So many jobs are polled in turn.
POLLED = 2000


class Subject(Protocol):
    """An API that takes jobs and shows them."""

    @property
    def name(self) -> str: ...
    @property
    def pids(self) -> dict[str, int]: ...
    def start(self) -> None: ...
    def spec(self, **how: object) -> Spec: ...
    def poll(self, **how: object) -> Spec: ...
    def rows(self) -> int | None: ...
    def clear(self) -> None: ...


def submit(bench: Bench, subjects: Sequence[Subject], part: str = "submit") -> None:
    """No worker runs. Every answer is a 202 with an id, and every one of them a row, or there are no figures."""
    for repeat in range(bench.effort.repeats):
        for connections in bench.effort.connections:
            for subject in turns(subjects, repeat):
                subject.clear()
                before = subject.rows()
                spec = subject.spec(connections=connections, seconds=bench.effort.seconds)
                figures, answered = _measured(bench, subject, spec)
                after = subject.rows()
                if before is not None and after is not None and after - before != answered:
                    raise BenchError(f"{subject.name}: {answered} were answered, {after - before} are stored")
                bench.note(Sample(part, f"{connections} connections", subject.name, repeat, figures))


def poll(
    bench: Bench, subjects: Sequence[Subject], conditional: Sequence[Subject], part: str = "poll"
) -> None:
    """Many jobs in turn; then again with the ETag of each, where the subject knows ETags."""
    for subject in subjects:
        subject.clear()
        if subject.rows() is not None:
            bench.load(subject.spec(count=POLLED))
    for repeat in range(bench.effort.repeats):
        for connections in bench.effort.connections:
            case = f"{connections} connections"
            for subject in turns(subjects, repeat):
                spec = subject.poll(connections=connections, seconds=bench.effort.seconds)
                figures, _ = _measured(bench, subject, spec)
                bench.note(Sample(part, case, subject.name, repeat, figures))
                if subject in conditional:
                    spec = subject.poll(
                        connections=connections, seconds=bench.effort.seconds, conditional=True, expect=304
                    )
                    figures, _ = _measured(bench, subject, spec)
                    bench.note(Sample(part, case, f"{subject.name}, If-None-Match", repeat, figures))


def lists(bench: Bench, subjects: Sequence[Plantain], part: str = "lists", *, searches: bool = True) -> None:
    """Pages of jobs, searches in their prompts and the summary, from a handful of connections."""
    for subject in subjects:
        if not subject.rows():
            bench.load(subject.spec(count=POLLED))
    for repeat in range(bench.effort.repeats):
        for case, path in LISTS.items():
            if "q=" in path and not searches:
                continue
            for subject in turns(subjects, repeat):
                spec = subject.spec(
                    method="GET",
                    paths=[path],
                    body="",
                    expect=200,
                    must_hold="",
                    connections=4,
                    seconds=bench.effort.seconds,
                )
                figures, _ = _measured(bench, subject, spec)
                bench.note(Sample(part, case, subject.name, repeat, figures))


def _measured(bench: Bench, subject: Subject, spec: Spec) -> tuple[dict[str, float], int]:
    """The figures, and how many requests were answered in all."""
    meter = Meter(subject.pids | bench.pids)
    result = bench.load(spec, meter.begin)
    spent = meter.spent() | {"client": result["cpu"]}
    done = result["completed"]
    if not done:
        raise BenchError(f"{subject.name}: nothing was answered within {spec.seconds:g} s")
    figures = {"req/s": done / result["seconds"]}
    figures |= {f"{name} ms": result[name] * 1000 for name in ("p50", "p95", "p99")}
    figures |= {f"CPU {name}": seconds * 1000 / done for name, seconds in spent.items()}
    return figures, result["all"]
