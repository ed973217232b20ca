"""``memory``: what the processes cost before they do anything, and what a call under way costs."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence

from scripts.benching.bench import Bench, BenchError
from scripts.benching.figures import Sample
from scripts.benching.meters import rss_mib
from scripts.benching.plantain import Plantain

#: What each process has imported when it is ready.
IMPORTS = {
    "api": "import api.__main__, api.app",
    "worker": "import worker.__main__, celery.apps.worker, worker.app",
}
IN_FLIGHT = 1000
#: Longer than it takes to have all of them in flight.
_DELAY = 15.0
_SELF = re.compile(r"^import time:\s+(\d+) \|", re.MULTILINE)


def memory(bench: Bench, subjects: Sequence[Plantain]) -> None:
    """Resident memory at rest and with 1,000 calls in flight; time to import."""
    for repeat in range(bench.effort.repeats):
        for subject in subjects:
            for process, statement in IMPORTS.items():
                figures = _imported(subject, statement)
                bench.note(Sample("memory", f"start of {process}", subject.name, repeat, figures))
            bench.note(Sample("memory", "MiB resident", subject.name, repeat, _resident(bench, subject)))


def _imported(subject: Plantain, statement: str) -> dict[str, float]:
    """Milliseconds: of the imports alone (as Python counts them, which takes time too), and of the whole process."""
    begun = time.monotonic()
    subject.python("-c", statement)
    took = time.monotonic() - begun
    listed = subject.python("-X", "importtime", "-c", statement).stderr
    return {"wall ms": took * 1000, "imports ms": sum(map(int, _SELF.findall(listed))) / 1000}


def _resident(bench: Bench, subject: Plantain) -> dict[str, float]:
    subject.clear()
    bench.provider.reset(_DELAY)
    with subject.worker(IN_FLIGHT) as worker:
        time.sleep(1.0)
        idle = rss_mib(worker["worker"])
        figures = {"api": rss_mib(subject.pids["api"]), "worker idle": idle}
        subject.fill(IN_FLIGHT)
        bench.provider.wait(IN_FLIGHT, 60)
        if bench.provider.stats()["in_flight"] < IN_FLIGHT:
            raise BenchError(f"{subject.name}: it took over {_DELAY:g} s to have {IN_FLIGHT} calls in flight")
        busy = rss_mib(worker["worker"])
        subject.finished(IN_FLIGHT, 60)
    return figures | {"worker busy": busy, "KiB a call": (busy - idle) * 1024 / IN_FLIGHT}
