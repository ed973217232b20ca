"""taskiq on a list in Redis, one worker process."""

import os
from collections.abc import Sequence

from taskiq_redis import ListQueueBroker

from scripts.benching.peers.work import work

broker = ListQueueBroker(os.environ["REDIS_URL"])


@broker.task(task_name="run")
async def run(job_id: str) -> None:
    await work.run(job_id)


async def enqueue(job_ids: Sequence[str]) -> None:
    for job_id in job_ids:
        await run.kiq(job_id)


def command(concurrency: int) -> list[str]:
    limits = ["--workers", "1", "--max-async-tasks", str(concurrency), "--log-level", "WARNING"]
    return ["-m", "taskiq", "worker", f"{__name__}:broker", *limits]
