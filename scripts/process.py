"""Start a program in its own session, so that it dies with this process and its output goes to a log."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parent.parent
LAUNCH = Path(__file__).with_name("launch.py")

User = Literal["self", "namespace", "nobody"]


def launcher(user: User = "self", death_signal: int = 0) -> list[str]:
    """The command line in front of a program: see scripts/launch.py.

    The kernel watches the thread that forks, not its process: away from the main thread no signal is asked for, or
    the child would be stopped when that thread ends.
    """
    if threading.current_thread() is not threading.main_thread():
        death_signal = 0
    options = ["--user", user, "--parent", str(os.getpid()), "--death-signal", str(int(death_signal))]
    return [sys.executable, "-I", "-S", str(LAUNCH), *options, "--"]


def spawn(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    log: Path,
    cwd: Path = ROOT,
    user: User = "self",
    death_signal: int = signal.SIGKILL,
    keep_open: Sequence[int] = (),
    stdin: bytes = b"",
) -> subprocess.Popen[bytes]:
    """Start `command` (an absolute path first) with exactly this environment; stdout and stderr are appended to `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        process = subprocess.Popen(
            [*launcher(user, death_signal), *command],
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            cwd=cwd,
            env=dict(environment),
            start_new_session=True,
            pass_fds=tuple(keep_open),
        )
    finally:
        os.close(descriptor)
    if process.stdin is not None:
        with contextlib.suppress(BrokenPipeError):  # it ended already: its exit code and log say why
            process.stdin.write(stdin)
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
    return process


def wait(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether the process ended within that time."""
    deadline = time.monotonic() + seconds
    while process.poll() is None:
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.01)
    return True


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL for the process and whatever it left behind in its group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def family(pid: int) -> list[int]:
    """The process and all its descendants: PostgreSQL's children are in groups of their own. Linux only."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found


def signal_all(pids: Sequence[int], number: signal.Signals) -> None:
    """Those that are gone get none."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
