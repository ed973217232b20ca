"""Who runs on a data folder: one `up` at a time, found by a lock and by what it wrote into the locked file."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from scripts import files

NAME = "up.lock"


@dataclass(frozen=True)
class Holder:
    """A running stack. The URLs hold passwords: the file is 0600."""

    pid: int
    api_url: str = ""
    database_url: str = ""
    redis_url: str = ""


class HeldError(Exception):
    """Another process runs on the data folder; the text says which and what to do."""


@contextmanager
def hold(folder: Path) -> Iterator[int]:
    """Be the only one on this data folder; gives the descriptor for `describe`. A stale lock is no obstacle.

    Raises `HeldError`.
    """
    path = folder / NAME
    try:
        descriptor = files.lock(path, wait=0.3)  # one that was just killed may still be on its way out
    except files.LockedError:
        raise HeldError(_refusal(folder, _read(path))) from None
    try:
        describe(descriptor, Holder(pid=os.getpid()))
        yield descriptor
    finally:
        os.ftruncate(descriptor, 0)
        os.close(descriptor)


def describe(descriptor: int, holder: Holder) -> None:
    """Tell others who runs here."""
    text = json.dumps(asdict(holder)).encode()
    os.pwrite(descriptor, text, 0)
    os.ftruncate(descriptor, len(text))


def running(folder: Path) -> Holder | None:
    """The stack that runs on this data folder now; None when there is none, or it is not ready yet."""
    path = folder / NAME
    if not path.exists():
        return None
    try:
        os.close(files.lock(path))
    except files.LockedError:
        holder = _read(path)
        return holder if holder and holder.database_url else None
    return None


def _read(path: Path) -> Holder | None:
    try:
        return Holder(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _refusal(folder: Path, holder: Holder | None) -> str:
    who = f"pid {holder.pid}" if holder else "another process"
    where = f", {holder.api_url}" if holder and holder.api_url else ""
    how = f"kill {holder.pid}" if holder else "stop that process"
    return (
        f"Plantain already runs on {folder} ({who}{where}).\n"
        f"Stop it with Ctrl-C in its terminal or with: {how}\n"
        "Or run a second one beside it, with its own data: --data-dir DIR"
    )
