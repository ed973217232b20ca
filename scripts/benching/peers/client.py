"""``python -m scripts.benching.peers.client PEER worker|prepare|fill [N]``: what is done with a peer from outside."""

import asyncio
import importlib
import os
import sys
from typing import Any
from uuid import uuid4

import asyncpg

from scripts.benching.peers.work import INSERT, TABLE


async def _prepare(peer: Any) -> None:
    database = await asyncpg.connect(os.environ["DATABASE_URL"])
    await database.execute(TABLE)
    await database.close()
    if hasattr(peer, "prepare"):
        await peer.prepare()


async def _fill(peer: Any, jobs: int) -> None:
    database = await asyncpg.connect(os.environ["DATABASE_URL"])
    job_ids = [str(uuid4()) for _ in range(jobs)]
    await database.executemany(INSERT, [(job_id, "Name a fruit.") for job_id in job_ids])
    await peer.enqueue(job_ids)


def main() -> None:
    name, what, *number = sys.argv[1:]
    peer = importlib.import_module(f"scripts.benching.peers.on_{name}")
    match what:
        case "worker":
            os.execv(sys.executable, [sys.executable, *peer.command(int(number[0]))])
        case "prepare":
            asyncio.run(_prepare(peer))
        case "fill":
            asyncio.run(_fill(peer, int(number[0])))


if __name__ == "__main__":
    main()
