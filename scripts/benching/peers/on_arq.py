"""arq, with its own defaults but for the number of jobs."""

import os
from collections.abc import Sequence
from typing import Any

from arq import create_pool
from arq.connections import ArqRedis, RedisSettings

from scripts.benching.peers.work import work

SETTINGS = RedisSettings.from_dsn(os.environ["REDIS_URL"])
_pool: list[ArqRedis] = []


async def run(_: Any, job_id: str) -> None:
    await work.run(job_id)


class WorkerSettings:
    functions = (run,)
    redis_settings = SETTINGS
    max_jobs = int(os.environ.get("CONCURRENCY", "10"))


async def enqueue(job_ids: Sequence[str]) -> None:
    if not _pool:
        _pool.append(await create_pool(SETTINGS))
    for job_id in job_ids:
        await _pool[0].enqueue_job("run", job_id)


def command(_: int) -> list[str]:
    return ["-m", "arq", f"{__name__}.WorkerSettings"]
