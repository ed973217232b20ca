"""Ends process groups when the process that started this one is gone, however it went.

Run by path: `python -I -S guardian.py`, with a pipe as standard input. Its lines are `watch PGID SIGNAL` and
`forget PGID`; the end of input means that the writer is no more. Then each watched group gets its signal, and
SIGKILL when that was not enough. The kernel does the same for direct children on Linux (scripts/launch.py); this
reaches what those left behind, and other systems. Standard library only.
"""

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

#: How long the groups may take to follow their signal, in seconds.
GRACE = 5.0


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends with its input and by nothing else
    groups: dict[int, int] = {}
    for line in sys.stdin:
        match line.split():
            case ["watch", group, how]:
                groups[int(group)] = int(how)
            case ["forget", group]:
                groups.pop(int(group), None)
    end(groups)


def end(groups: dict[int, int]) -> None:
    """Signal each group; SIGKILL those that are still there after the grace period."""
    for group, number in groups.items():
        _send(group, number)
    deadline = time.monotonic() + GRACE
    while (left := _living(set(groups))) and time.monotonic() < deadline:
        time.sleep(0.05)
    for group in left:
        _send(group, signal.SIGKILL)


def _send(group: int, number: int) -> bool:
    """Whether there was a group to send to."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
        return True
    return False


def _living(groups: set[int]) -> set[int]:
    """Those groups in which somebody runs. The dead that nobody has waited for yet count only where /proc is absent."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, group = (
                stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[:3]
            )
            if state != "Z":
                found.add(int(group))
    return groups & found if found else {group for group in groups if _send(group, 0)}


if __name__ == "__main__":
    main()
