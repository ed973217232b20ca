"""How long a job takes to start where nothing else goes on, by two clocks, for whatever runs jobs behind an HTTP API."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from scripts.benching.bench import Bench, BenchError
from scripts.benching.load import Spec
from scripts.benching.watch import CALL, WatchSpec

#: Each way's first job only warms up: the worker may not even be there yet.
WARM = 1


def watched(bench: Bench, spec: Spec, jobs: int, ways: Sequence[str]) -> dict[str, Any]:
    """What the watching client saw of so many jobs each way, each after one that warms up. Raises `BenchError`."""
    asked = asdict(spec) | {"count": jobs + WARM, "ways": (CALL, *ways), "provider": bench.provider.port}
    seen = bench.load(WatchSpec(**asked), module="watch")
    sent, calls = sum(len(each["sent"]) for each in seen.values()), bench.provider.stats()["calls"]
    if calls != sent:
        raise BenchError(f"{sent} jobs made {calls} calls")
    return seen


def starts(
    sent: Sequence[float], stored: Callable[[int], Sequence[float]], arrived: Sequence[float]
) -> dict[str, list[float]]:
    """Seconds until a job's provider was called, since its client sent it, and since its row began to be stored.

    `sent` and `arrived` are of the monotonic clock. `stored` gives the times of the first so many rows, in seconds since
    1970: its clock is the same machine's.
    """
    of_rows = time.time() - time.monotonic()
    began = [at - of_rows for at in stored(len(sent))]
    return {
        "submit → provider called": differences(sent, arrived),
        "stored → provider called": differences(began, arrived),
    }


def differences(earlier: Sequence[float], later: Sequence[float]) -> list[float]:
    """One by one, without the first. Raises ValueError: there are not as many."""
    return [after - before for before, after in zip(earlier, later, strict=True)][WARM:]
