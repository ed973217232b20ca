"""The simulator as a process of its own: contract tests speak HTTP to it, as the drivers do in earnest."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).resolve().parents[2]
_ANNOUNCEMENT = "simulator listening on "


@dataclass(frozen=True)
class RunningSimulator:
    """A simulator's address and its control endpoints (docs/simulator.md)."""

    url: str

    def calls(self, job: str | None = None) -> dict[str, Any]:
        """The counters; with a job, only its attempts are listed."""
        params = {"job": job} if job else {"by_job": "0"}
        return self._get("/sim/calls", params)

    def last_request(self, job: str) -> dict[str, Any]:
        """What came over the wire for a job, without keys and picture data."""
        return self._get("/sim/last-request", {"job": job})

    def configure(self, **changes: Any) -> None:
        """Changes settings while it runs; whoever does so puts them back."""
        httpx.put(f"{self.url}/sim/config", json=changes).raise_for_status()

    def _get(self, path: str, params: dict[str, str]) -> dict[str, Any]:
        answer = httpx.get(f"{self.url}{path}", params=params).raise_for_status().json()
        assert isinstance(answer, dict)
        return answer


@contextmanager
def started_simulator(*flags: str) -> Iterator[RunningSimulator]:
    """A simulator on a free port, ended at the end of the block; later flags win."""
    command = [sys.executable, "-m", "scripts.simulator", "--host", "127.0.0.1", "--port", "0"]
    with subprocess.Popen([*command, *flags], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith(_ANNOUNCEMENT), f"the simulator did not start: {line!r}"
            yield RunningSimulator(line.removeprefix(_ANNOUNCEMENT).strip())
        finally:
            process.terminate()
            process.wait(10)


@pytest.fixture(scope="session")
def simulator() -> Iterator[RunningSimulator]:
    """One simulator for the whole run: at once, light pictures. Tests tell their calls apart by job id."""
    with started_simulator("--latency-scale", "0", "--picture-weight", "light") as running:
        yield running
