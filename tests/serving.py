"""An application behind our server on a real socket, in this process: in-process clients never get as far as the protocol."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn

from api.protocol import LimitedProtocol


@asynccontextmanager
async def serving(application: Any, **options: Any) -> AsyncIterator[int]:
    """Its port; ``options`` are uvicorn's."""
    config = uvicorn.Config(
        application,
        host="127.0.0.1",
        port=0,
        http=LimitedProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        **options,
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.005)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await task
