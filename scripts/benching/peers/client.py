"""``python -m scripts.benching.peers.client PEER worker|prepare|fill|idle [N]``: what is done with a peer from outside."""

import asyncio
import http.client
import importlib
import json
import os
import random
import sys
import time
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg

from scripts.benching.peers.work import TABLE

_INSERT = "INSERT INTO jobs (id, prompt) VALUES ($1, 'Name a fruit.')"


async def _prepare(peer: Any) -> None:
    database = await asyncpg.connect(os.environ["DATABASE_URL"])
    await database.execute(TABLE)
    await database.close()
    if hasattr(peer, "prepare"):
        await peer.prepare()


async def _fill(peer: Any, jobs: int) -> None:
    database = await asyncpg.connect(os.environ["DATABASE_URL"])
    job_ids = [str(uuid4()) for _ in range(jobs)]
    await database.executemany(_INSERT, [(job_id,) for job_id in job_ids])
    await peer.enqueue(job_ids)


async def _idle(peer: Any, jobs: int) -> None:
    """One job at a time; prints when each was sent. The first only warms up."""
    database = await asyncpg.connect(os.environ["DATABASE_URL"])
    sent = []
    for number in range(1, jobs + 2):
        await asyncio.sleep(random.uniform(0.07, 0.13))  # the last one has been answered and recorded
        job_id = str(uuid4())
        sent.append(time.monotonic())
        await database.execute(_INSERT, job_id)
        await peer.enqueue([job_id])
        await asyncio.to_thread(_wait, number)
    print(json.dumps(sent[1:]))


def _wait(calls: int) -> None:
    provider = urlsplit(os.environ["PROVIDER_URL"])
    connection = http.client.HTTPConnection(str(provider.hostname), provider.port, timeout=60)
    connection.request("GET", f"/wait?calls={calls}")
    connection.getresponse().read()
    connection.close()


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
        case "idle":
            asyncio.run(_idle(peer, int(number[0])))


if __name__ == "__main__":
    main()
