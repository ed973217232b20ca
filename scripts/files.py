"""Folders, secrets, locks and logs of a data folder."""

import fcntl
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path


class LockedError(Exception):
    """Somebody else holds the lock file."""


def private_folder(path: Path) -> Path:
    """Create the folder (and its parents), readable by its owner only."""
    path.mkdir(parents=True, exist_ok=True)
    if path.stat().st_mode & 0o077:
        path.chmod(0o700)
    return path


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read: at once or not at all."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def secret(path: Path, make: Callable[[], str] = lambda: secrets.token_urlsafe(24)) -> str:
    """The secret kept in `path`; made on the first call."""
    try:
        kept = path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        kept = ""
    if not kept:
        kept = make()
        private_folder(path.parent)
        write_private(path, kept + "\n")
    return kept


def lock(path: Path, wait: float = 0) -> int:
    """Lock the file and return its descriptor; closing that (or the end of its last process) frees the lock.

    Raises `LockedError` when another process still has it after `wait` seconds.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(descriptor)
                raise LockedError(str(path)) from None
            time.sleep(0.02)
        except OSError:
            os.close(descriptor)
            raise


def rotate(path: Path) -> None:
    """Move a log aside, so that a new one begins and the previous one is kept."""
    if path.exists():
        path.replace(path.with_name(path.name + ".1"))


def last_words(path: Path) -> str:
    """The last lines of a log, indented, and what to do about the causes that many programs share."""
    lines = tail(path)
    shown = "\n".join(f"    {line}" for line in lines) or "    (the log is empty)"
    if any("No space left on device" in line for line in lines):
        shown += "\nThe disk is full. Free some space, or use another data folder."
    return f"The last lines of {path}:\n{shown}"


def tail(path: Path, lines: int = 20) -> list[str]:
    """The last lines of a log; empty when there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 64 * 1024))
            return file.read().decode("utf-8", "replace").splitlines()[-lines:]
    except OSError:
        return []
