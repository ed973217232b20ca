"""CPU time and memory of processes with all that descend from them, from /proc. Linux only."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from scripts.process import family

_TICK = os.sysconf("SC_CLK_TCK")
_MEBI = 1024.0


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and its descendants, those that ended included; whole ticks (10 ms)."""
    return sum(_times(each) for each in family(pid)) / _TICK


def rss_mib(pid: int) -> float:
    """Resident memory of a process and its descendants, in MiB; what they share counts once for each."""
    return sum(_field(each, "VmRSS") for each in family(pid)) / _MEBI


class Meter:
    """CPU of named processes between two looks."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = dict(pids)
        self._begun: dict[str, float] = {}

    def begin(self) -> None:
        self._begun = self._read()

    def spent(self) -> dict[str, float]:
        """Seconds since `begin`, by name."""
        now = self._read()
        return {name: now[name] - self._begun[name] for name in now}

    def _read(self) -> dict[str, float]:
        return {name: cpu_seconds(pid) for name, pid in self._pids.items()}


def _times(pid: int) -> int:
    """Its own ticks and those of the children that it has waited for."""
    with contextlib.suppress(OSError):
        stat = Path("/proc", str(pid), "stat").read_text(encoding="utf-8", errors="replace")
        return sum(int(ticks) for ticks in stat.rpartition(")")[2].split()[11:15])
    return 0


def _field(pid: int, name: str) -> int:
    with contextlib.suppress(OSError):
        for line in Path("/proc", str(pid), "status").read_text(encoding="utf-8").splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1])
    return 0
