"""``Prefer: wait``: holds a request until its job has come to something, or the client's patience is over."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from fastapi import Request
from sqlalchemy import Row
from starlette.requests import ClientDisconnect

from api.deps import caller_of, services_of
from api.hub import LOOK_SECONDS, rung
from shared.jobs.status import FINAL

Done = Callable[[Row[Any]], Awaitable[bool]]


async def is_final(row: Row[Any]) -> bool:
    return row.state in FINAL


async def wait_until(request: Request, job_id: UUID, done: Done, seconds: float) -> Row[Any]:
    """The job as soon as it is done, or as it is after so many seconds or when the process shuts down.

    Raises:
        ClientDisconnect: nobody waits any more.
        NotFound: no such job in the project.
    """
    services, project_id = services_of(request), caller_of(request).project_id
    hub, clock = services.hub, asyncio.get_running_loop().time
    deadline = clock() + seconds
    with hub.bell(job_id) as bell, watched(request, bell) as client:
        while True:
            bell.clear()
            row = await services.jobs.get(project_id, job_id)
            left = deadline - clock()
            if hub.closing or left <= 0 or await done(row):
                return row
            await rung(bell, min(left, LOOK_SECONDS))
            if client.done():
                raise ClientDisconnect


@contextmanager
def watched(request: Request, bell: asyncio.Event) -> Iterator[asyncio.Task[None]]:
    """A task that ends, and rings the bell, when the client has gone. The request's body has been read, or is none."""
    task = asyncio.create_task(_until_gone(request))
    task.add_done_callback(lambda _: bell.set())
    try:
        yield task
    finally:
        task.cancel()


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
