"""The simulator as a real process, one for the whole folder, put back to its defaults before each test."""

import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).resolve().parents[3]
DEFAULTS: dict[str, Any] = {
    "latency_scale": 0,
    "fault_rates": None,
    "rpm": None,
    "concurrency": None,
    "rate_window": 60,
    "picture_weight": "light",
    "gateway_mode": "sync",
    "extra_models": None,
}


class SimulatorProcess:
    """A simulator that was started for tests. `url` is its address."""

    def __init__(self, *flags: str) -> None:
        command = [sys.executable, "-m", "scripts.simulator", "--port", "0", "--seed", "7", *flags]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        watchdog = threading.Timer(20, self.process.kill)
        watchdog.start()
        assert self.process.stdout is not None
        self.line = self.process.stdout.readline().strip()
        watchdog.cancel()
        self.url = self.line.rpartition(" ")[2]
        self._http = httpx.Client(base_url=self.url, verify=False)  # no TLS: saves loading certificates

    def control(self, method: str, path: str, **kwargs: Any) -> Any:
        """A control call's JSON."""
        return self._http.request(method, f"/sim/{path}", **kwargs).raise_for_status().json()

    def configure(self, **changes: Any) -> None:
        """Change settings until the end of the test."""
        self.control("PUT", "config", json=changes)

    def calls(self, job: str | None = None) -> dict[str, Any]:
        """The counters."""
        answer: dict[str, Any] = self.control("GET", "calls", params={"job": job} if job else {})
        return answer

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        self._http.close()
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(10)
        if self.process.stdout:
            self.process.stdout.close()
        return status


@pytest.fixture(scope="session")
def simulator_process() -> Iterator[SimulatorProcess]:
    running = SimulatorProcess("--latency-scale", "0")
    yield running
    running.stop()


@pytest.fixture
def sim(simulator_process: SimulatorProcess) -> SimulatorProcess:
    """The simulator with empty counters and default settings: no latency, light pictures."""
    simulator_process.control("DELETE", "calls")
    simulator_process.configure(**DEFAULTS)
    return simulator_process


@pytest.fixture
async def http(sim: SimulatorProcess) -> AsyncIterator[httpx.AsyncClient]:
    """A client for the raw wire forms."""
    async with httpx.AsyncClient(base_url=sim.url, timeout=20, verify=False) as client:
        yield client
