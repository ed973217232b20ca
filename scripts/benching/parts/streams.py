"""``streams``: thousands of open event streams on one API process: what each takes, and how late events are."""

from __future__ import annotations

import time
from collections.abc import Sequence

from scripts.benching.bench import Bench
from scripts.benching.figures import Sample
from scripts.benching.meters import Meter, rss_mib
from scripts.benching.plantain import Plantain

STREAMS = 2000
#: Jobs that change while all are open.
CHANGES = 40
#: The API is left alone for so long after all are open, and its CPU measured for most of it, seconds.
_REST, _MEASURED = 5.0, 4.0


def streams(bench: Bench, subjects: Sequence[Plantain]) -> None:
    """All follow the project, and each event goes to all of them; then each follows a job of its own."""
    for repeat in range(bench.effort.repeats):
        for subject in subjects:
            for case, per_job in (
                (f"{STREAMS:,} of the project", False),
                (f"{STREAMS:,} of a job each", True),
            ):
                subject.restart_api()
                subject.clear()
                subject.fill(STREAMS)
                bench.note(Sample("streams", case, subject.name, repeat, _followed(bench, subject, per_job)))


def _followed(bench: Bench, subject: Plantain, per_job: bool) -> dict[str, float]:
    pid = subject.pids["api"]
    before, found = rss_mib(pid), {}

    def rest() -> None:
        found["MiB"] = rss_mib(pid)
        meter = Meter({"api": pid})
        meter.begin()
        time.sleep(_MEASURED)
        found["% of a core at rest"] = meter.spent()["api"] / _MEASURED * 100

    spec = subject.follow(per_job=per_job, streams=STREAMS, changes=CHANGES, warm=_REST)
    result = bench.load(spec, rest, module="follow")
    return {
        "KiB a stream": (found["MiB"] - before) * 1024 / STREAMS,
        **found,
        "opened/s": STREAMS / result["open"],
        **{f"{name} ms": result[name] * 1000 for name in ("p50", "p99", "last")},
    }
