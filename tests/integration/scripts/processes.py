"""Looking at processes from outside."""

import time
from collections.abc import Callable
from pathlib import Path


def gone(pid: int) -> bool:
    """Whether no such process runs; one that nobody has waited for yet does not run."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return True
    return status.rpartition(")")[2].split()[0] == "Z"


def wait_until(true: Callable[[], bool], seconds: float) -> None:
    """Wait for something; fails when it does not come true in time."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)
