"""A limit with one timer for many blocks."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Coroutine
from typing import Any

import pytest

from shared.patience import Patience


async def cancelled(waiting: Coroutine[Any, Any, None]) -> None:
    """Who is cancelled soon after he began ends as cancelled."""
    task = asyncio.create_task(waiting)
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()


async def test_a_block_in_time_is_left_alone_and_one_that_is_late_ends() -> None:
    patience = Patience(0.1)
    for _ in range(10):
        with patience:
            await asyncio.sleep(0.05)  # together longer than the limit
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=r"no answer within 0\.1 s"), patience:
        await asyncio.sleep(5)
    assert 0.09 < time.monotonic() - began < 2
    assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]
    await asyncio.sleep(0.2)  # nothing is left that could end this
    with pytest.raises(TimeoutError), patience:
        await asyncio.sleep(5)


async def test_each_block_has_its_whole_time() -> None:
    patience = Patience(0.2)
    with patience:
        await asyncio.sleep(0.15)
    began = time.monotonic()
    with pytest.raises(TimeoutError), patience:
        await asyncio.sleep(5)
    assert time.monotonic() - began > 0.19


async def test_errors_of_the_block_are_its_own() -> None:
    patience = Patience(5)
    with pytest.raises(ValueError, match="mine"), patience:
        raise ValueError("mine")


async def test_who_cancels_for_another_reason_gets_no_timeout() -> None:
    patience = Patience(5)

    async def waiting() -> None:
        with patience:
            await asyncio.sleep(30)

    await cancelled(waiting())


async def test_who_was_cancelled_before_it_is_late_gets_no_timeout() -> None:
    patience = Patience(0.05)

    async def waiting() -> None:
        with patience:
            try:
                await asyncio.sleep(30)
            finally:
                with contextlib.suppress(asyncio.CancelledError):  # the timer's
                    await asyncio.sleep(1)

    await cancelled(waiting())


async def test_both_at_once_is_a_cancel() -> None:
    patience = Patience(0.05)

    async def waiting() -> None:
        with patience:
            try:
                await asyncio.sleep(30)
            finally:
                asyncio.current_task().cancel()  # type: ignore[union-attr]
                await asyncio.sleep(0)

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(waiting())
