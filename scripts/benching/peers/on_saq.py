"""saq on Redis."""

import os
from collections.abc import Sequence
from typing import Any

from saq import Queue

from scripts.benching.peers.work import work

queue = Queue.from_url(os.environ["REDIS_URL"])


async def run(_: Any, *, job_id: str) -> None:
    await work.run(job_id)


settings = {"queue": queue, "functions": [run], "concurrency": int(os.environ.get("CONCURRENCY", "10"))}


async def enqueue(job_ids: Sequence[str]) -> None:
    for job_id in job_ids:
        await queue.enqueue("run", job_id=job_id, timeout=60)


def command(_: int) -> list[str]:
    return ["-m", "saq", f"{__name__}.settings"]
