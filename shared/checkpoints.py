"""Named points in a job's way at which a test holds, stops or kills the process. Without TEST_CHECKPOINTS: nothing.

A test leaves orders as files in the folder, named ``POINT.ACTION.JOB.SERIAL``. JOB is a job's id, a batch's, or ``any``. Who comes to
the point takes the order by moving it into ``taken/`` (one order, one process) and obeys:

    kill   SIGKILL for this process
    stop   SIGSTOP for this process
    hold   only this job waits, until the order is gone from ``taken/``

An order whose SERIAL is ``always`` stays, for jobs that meet it every time. The points:

    API      inserting (before the statement)  inserted (before the commit, under a key or of a batch)
             committed (before its message is sent, where that is not on its way since the insert)
    worker   popped (before the claim)  claimed  sent (noted, before the call)  answered (before the record)
             artifacts (written, before the ending)  recorded
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from pathlib import Path
from uuid import UUID

_STOPPED_WITHIN = 0.2

_folder: Path | None = None


def arm(folder: Path | None) -> None:
    """Says where the orders of a test lie; None, as everywhere else, turns all points off."""
    global _folder  # noqa: PLW0603  one switch a process
    _folder = folder


async def checkpoint(point: str, job_id: UUID) -> None:
    """Obeys an order for this point and job, if a test has left one."""
    if _folder is None:
        return
    taken = _find(_folder, point, job_id)
    if taken is None:
        return
    match taken.name.split(".")[1]:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
            # The system may stop another thread first, and this one would go on for some milliseconds.
            time.sleep(_STOPPED_WITHIN)  # noqa: ASYNC251
        case "hold":
            while _is_there(taken):  # noqa: ASYNC110  another process takes it away
                await asyncio.sleep(0.01)
        case action:
            raise ValueError(f"no such order: {action}")


def _find(folder: Path, point: str, job_id: UUID) -> Path | None:
    for whom in (job_id, "any"):
        for order in sorted(folder.glob(f"{point}.*.{whom}.*")):
            if (taken := _take(order, job_id)) is not None:
                return taken
    return None


def _take(order: Path, job_id: UUID) -> Path | None:
    """The order's new place; None where another process was faster."""
    taken = order.parent / "taken" / f"{order.name}@{job_id}@{os.getpid()}@{time.monotonic_ns()}"
    with contextlib.suppress(FileNotFoundError):
        if order.suffix == ".always":
            taken.touch()
        else:
            order.rename(taken)
        return taken
    return None


def _is_there(path: Path) -> bool:
    return path.exists()
