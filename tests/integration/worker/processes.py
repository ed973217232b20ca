"""Workers and beat as the processes they are in earnest."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

from shared.config import Settings
from tests.patience import PATIENCE

ROOT = Path(__file__).resolve().parents[3]
WORKER = ("-m", "worker")
BEAT = ("-m", "celery", "-A", "worker.app", "beat", "--loglevel=INFO")


def environment_of(settings: Settings, **more: str) -> dict[str, str]:
    """Settings as a process gets them, with nothing of ours besides."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    given = {
        "ENVIRONMENT": "test",
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "REDIS_URL": settings.redis_url.get_secret_value(),
        "SIMULATOR_URL": settings.simulator_url or "",
        "LEASE_SECONDS": str(settings.lease_seconds),
        "LEASE_RENEW_SECONDS": str(settings.lease_renew_seconds),
        "RETRY_BASE_SECONDS": str(settings.retry_base_seconds),
        "RETRY_CAP_SECONDS": str(settings.retry_cap_seconds),
        "REPUBLISH_AFTER_SECONDS": str(settings.republish_after_seconds),
        "WORKER_CONCURRENCY": str(settings.worker_concurrency),
    }
    return {**kept, **given, **more}


class Process:
    """One Python process whose output goes to a file. A context: it is gone at the end of the block."""

    def __init__(self, arguments: tuple[str, ...], environment: dict[str, str], log: Path) -> None:
        self.arguments = arguments
        self.environment = environment
        self.log = log
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as output:
            return subprocess.Popen(
                [sys.executable, *self.arguments],
                cwd=ROOT,
                env=self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def start_again(self) -> None:
        """What a supervisor does with a process that ended."""
        assert not self.alive
        self.process = self._start()

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL, to the whole group."""
        if self.alive:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)

    def wait(self, seconds: float) -> int:
        """The exit status; fails where it does not end in time."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running:\n{self.output[-3000:]}") from None

    def wait_for_output(self, words: str, seconds: float = PATIENCE) -> None:
        deadline = time.monotonic() + seconds
        while words not in self.output:
            assert self.alive, self.output[-3000:]
            assert time.monotonic() < deadline, f"no {words!r} in:\n{self.output[-3000:]}"
            time.sleep(0.05)
