"""How long a test waits for what must come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

#: Seconds. Spent only where something is broken, so it is long: a machine may have a tenth of the time of the one that
#: a test was written on.
PATIENCE = 30.0


async def until(condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Looks at it again and again.

    Raises:
        TimeoutError: it never became true.
    """
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)
