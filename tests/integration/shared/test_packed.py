"""Commands that are bytes already: on connections that are kept, and that nothing is left on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from shared.config import Settings
from shared.packed import PackedCommands, packed
from tests.patience import PATIENCE


@pytest.fixture
async def redis(settings: Settings) -> AsyncIterator[Redis]:
    made: Redis = Redis.from_url(settings.redis_url.get_secret_value())
    yield made
    await made.aclose()


@pytest.fixture
async def commands(redis: Redis) -> AsyncIterator[PackedCommands]:
    made = PackedCommands(redis)
    yield made
    await made.close()


async def _clients(redis: Redis) -> set[str]:
    return {client["id"] for client in await redis.client_list()}


async def test_all_bytes_arrive_as_they_are(redis: Redis, commands: PackedCommands) -> None:
    values = [b"", b"\r\n", b"$5\r\n", bytes(range(256)), b"x" * 1_000_000]
    await commands.send([packed(b"RPUSH", (b"q", value)) for value in values])
    assert await redis.lrange("q", 0, -1) == values
    await commands.send([packed(b"DEL", (b"q",)), packed(b"RPUSH", (b"q", *values))])
    assert await redis.lrange("q", 0, -1) == values


async def test_one_connection_is_enough_for_calls_one_after_the_other(
    redis: Redis, commands: PackedCommands
) -> None:
    before = await _clients(redis)
    for _ in range(20):
        await commands.send([packed(b"INCR", (b"n",))])
    assert len(await _clients(redis) - before) == 1
    await asyncio.gather(*(commands.send([packed(b"INCR", (b"n",))]) for _ in range(200)))
    assert len(await _clients(redis) - before) <= 10
    assert await redis.get("n") == b"220"
    await commands.close()
    async with asyncio.timeout(PATIENCE):
        while await _clients(redis) - before:
            await asyncio.sleep(0.01)


async def test_one_that_the_server_closed_is_replaced_unseen(redis: Redis, commands: PackedCommands) -> None:
    before = await _clients(redis)
    await asyncio.gather(*(commands.send([packed(b"INCR", (b"n",))]) for _ in range(5)))
    for client in await _clients(redis) - before:
        await redis.client_kill_filter(_id=client)
    await commands.send([packed(b"INCR", (b"n",))])
    assert await redis.get("n") == b"6"


async def test_what_is_refused_is_raised_and_the_next_one_gets_its_own_answer(
    redis: Redis, commands: PackedCommands
) -> None:
    await redis.set("text", "no list")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await commands.send(
            [
                packed(b"LPUSH", (b"text", b"1")),
                packed(b"LPUSH", (b"q", b"1")),
                packed(b"LPUSH", (b"text", b"2")),
            ]
        )
    await commands.send([packed(b"LPUSH", (b"q", b"2"))])
    assert b"2" in await redis.lrange("q", 0, -1)


async def test_who_is_called_off_leaves_no_answer_to_the_next(redis: Redis, commands: PackedCommands) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await commands.send([packed(b"BLPOP", (b"nothing", b"30"))])
    with pytest.raises(ResponseError):
        await commands.send([packed(b"NOSUCHTHING", ())])
    await commands.send([packed(b"SET", (b"n", b"1"))])
    assert await redis.get("n") == b"1"


async def test_where_nobody_listens_that_is_said() -> None:
    redis: Redis = Redis.from_url("redis://127.0.0.1:1/0", socket_connect_timeout=1, retry=None)
    with pytest.raises((RedisConnectionError, OSError)):
        await PackedCommands(redis).send([packed(b"PING", ())])
    await redis.aclose()


async def test_every_form_of_url_is_the_drivers(settings: Settings, redis: Redis) -> None:
    """A user with a password, and another database: none of it is known here."""
    await redis.acl_setuser("ringer", enabled=True, passwords=["+se:cret"], keys=["*"], categories=["+@all"])
    try:
        address = (
            settings.redis_url.get_secret_value()
            .rpartition("@")[2]
            .rpartition("/")[0]
            .removeprefix("redis://")
        )
        other: Redis = Redis.from_url(f"redis://ringer:se%3Acret@{address}/3")
        commands = PackedCommands(other)
        await commands.send([packed(b"SET", (b"who", b"ringer"))])
        assert await other.get("who") == b"ringer"
        assert await redis.get("who") is None
        await other.delete("who")
        await commands.close()
        await other.aclose()
    finally:
        await redis.acl_deluser("ringer")
