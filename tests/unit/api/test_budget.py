from __future__ import annotations

import asyncio

import pytest

from api import budget
from api.budget import Budget
from shared.errors import Unavailable


async def test_room_is_given_back_and_goes_to_who_waits() -> None:
    bytes_ = Budget(100)

    async def use(size: int) -> None:
        async with bytes_.room() as room:
            await room.take(size)
            assert bytes_.taken <= 100
            await asyncio.sleep(0.01)

    await asyncio.gather(*(use(size) for size in (60, 60, 30, 100, 1) * 4))
    assert bytes_.taken == 0


async def test_who_waits_too_long_is_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "WAIT_SECONDS", 0.05)
    bytes_ = Budget(100)
    async with bytes_.room() as first, bytes_.room() as second:
        await first.take(70)
        with pytest.raises(Unavailable) as caught:
            await second.take(31)
        assert (caught.value.code, caught.value.retry_after) == ("overloaded", 5)
        await second.take(30)
    assert bytes_.taken == 0


async def test_what_is_larger_than_all_gets_in_alone() -> None:
    bytes_ = Budget(100)
    async with bytes_.room() as room:
        await room.take(101)
    assert bytes_.taken == 0
