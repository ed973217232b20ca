"""A peer behind HTTP, as somebody would put it together who cares for speed: one row by asyncpg, one message."""

import importlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import asyncpg
from fastapi import FastAPI
from pydantic import BaseModel

from scripts.benching.peers.work import INSERT

peer: Any = importlib.import_module(f"scripts.benching.peers.on_{os.environ['PEER']}")


class JobIn(BaseModel):
    kind: str
    model: str
    input: dict[str, str]


class JobOut(BaseModel):
    id: UUID
    state: str = "queued"


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=10, max_size=10) as app.state.pool:
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/jobs", status_code=202)
async def submit(job: JobIn) -> JobOut:
    job_id = uuid4()
    await app.state.pool.execute(INSERT, job_id, job.input["prompt"])
    await peer.enqueue([str(job_id)])
    return JobOut(id=job_id)
