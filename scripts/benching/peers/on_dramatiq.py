"""dramatiq with coroutines as actors, in two processes: on two cores that is faster than one."""

import os
from collections.abc import Sequence

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware.asyncio import AsyncIO

from scripts.benching.peers.work import work

PROCESSES = 2
broker = RedisBroker(url=os.environ["REDIS_URL"])
broker.add_middleware(AsyncIO())
dramatiq.set_broker(broker)


@dramatiq.actor(actor_name="run")
async def run(job_id: str) -> None:
    await work.run(job_id)


async def enqueue(job_ids: Sequence[str]) -> None:
    for job_id in job_ids:
        run.send(job_id)


def command(concurrency: int) -> list[str]:
    threads = str(concurrency // PROCESSES)  # each waits for one coroutine
    return ["-m", "dramatiq", __name__, "--processes", str(PROCESSES), "--threads", threads]
