"""The work, for those that run coroutines: asyncpg, aiohttp, and uvloop as the loop of whoever imports this."""

import asyncio
import os

import aiohttp
import asyncpg
import uvloop

uvloop.install()

TABLE = """
    CREATE TABLE IF NOT EXISTS jobs (
        id uuid PRIMARY KEY,
        prompt text NOT NULL,
        state text NOT NULL DEFAULT 'queued',
        created_at timestamptz NOT NULL DEFAULT now(),
        claimed_at timestamptz,
        finished_at timestamptz,
        result jsonb
    )
"""
INSERT = "INSERT INTO jobs (id, prompt) VALUES ($1, $2)"
#: The first is NULL where somebody else has it.
CLAIM = "UPDATE jobs SET state = 'running', claimed_at = now() WHERE id = $1 AND state = 'queued' RETURNING prompt"
RECORD = "UPDATE jobs SET state = 'succeeded', finished_at = now(), result = $2 WHERE id = $1"
URL = os.environ["PROVIDER_URL"] + "/v1beta/models/loopback:generateContent"


class Work:
    """Its pools are opened by the first job, on the loop that runs it."""

    def __init__(self) -> None:
        self._opening: asyncio.Lock | None = None
        self._pool: asyncpg.Pool | None = None

    async def run(self, job_id: str) -> None:
        """One job from the queue to the record."""
        pool = self._pool or await self._open()
        prompt = await pool.fetchval(CLAIM, job_id)
        if prompt is None:
            return
        async with self._http.post(URL, json={"contents": [{"parts": [{"text": prompt}]}]}) as answer:
            answer.raise_for_status()
            result = await answer.text()
        await pool.execute(RECORD, job_id, result)

    async def _open(self) -> asyncpg.Pool:
        self._opening = self._opening or asyncio.Lock()
        async with self._opening:
            if self._pool is None:
                self._http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
                self._pool = await asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=10, max_size=10)
        return self._pool


work = Work()
