"""procrastinate: messages in PostgreSQL too, woken by LISTEN."""

import os
from collections.abc import Sequence

from procrastinate import App, PsycopgConnector

from scripts.benching.peers.work import work

app = App(connector=PsycopgConnector(conninfo=os.environ["DATABASE_URL"]))


@app.task(name="run")
async def run(job_id: str) -> None:
    await work.run(job_id)


async def prepare() -> None:
    async with app.open_async():
        await app.schema_manager.apply_schema_async()


async def enqueue(job_ids: Sequence[str]) -> None:
    if not getattr(app, "bench_open", False):
        await app.open_async()
        app.bench_open = True
    for job_id in job_ids:
        await run.defer_async(job_id=job_id)


def command(concurrency: int) -> list[str]:
    return ["-m", "procrastinate", f"--app={__name__}.app", "worker", "-c", str(concurrency)]
