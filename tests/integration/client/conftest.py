"""A real API process behind a proxy that breaks connections, and both faces of the client on it."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest

from shared.client import AsyncPlantain, Plantain, Retries
from shared.config import Settings
from shared.db import Database
from shared.wakeups import Wakeups
from tests import factories
from tests.conftest import scratch_database, settings_of
from tests.e2e.faults.proxy import Proxy
from tests.integration.api.test_server import Server

#: Quick enough for tests; as many tries as any of them needs.
QUICK = Retries(tries=30, patience=20, first=0.02, longest=0.1)


@pytest.fixture(scope="module")
def served(
    server_url: str,
    template_database: str,
    _valkey: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Settings, Server]]:
    """One API process for all tests of a file; each has a project of its own."""
    redis_url = _valkey.url if _valkey else os.environ["TEST_REDIS_URL"]
    with scratch_database(server_url, f"plantain_test_{uuid4().hex[:12]}", template_database) as url:
        settings = settings_of(database_url=url, redis_url=redis_url)
        server = Server(settings, tmp_path_factory.mktemp("client") / "api.log")
        yield settings, server
        server.process.kill()
        server.process.wait()


@pytest.fixture
async def database(served: tuple[Settings, Server]) -> AsyncIterator[Database]:
    made = Database(served[0], application="plantain test")
    yield made
    await made.close()


@pytest.fixture
async def wakeups(served: tuple[Settings, Server]) -> AsyncIterator[Wakeups]:
    made = Wakeups(served[0])
    yield made
    await made.close()


@pytest.fixture
def project() -> str:
    return f"p-{uuid4().hex[:12]}"


@pytest.fixture
async def key(database: Database, project: str) -> str:
    return await factories.key(database, project=project)


@pytest.fixture
async def project_id(database: Database, key: str, project: str) -> UUID:
    assert key
    return await factories.project(database, project)


@pytest.fixture
def proxy(served: tuple[Settings, Server]) -> Iterator[Proxy]:
    made = Proxy(served[1].port)
    yield made
    made.close()


class Face:
    """Either client, to be awaited: the blocking one runs on a thread."""

    def __init__(self, client: Plantain | AsyncPlantain) -> None:
        self.client = client

    async def __call__(self, name: str, *arguments: Any, **named: Any) -> Any:
        method = getattr(self.client, name)
        if inspect.iscoroutinefunction(method):
            return await method(*arguments, **named)
        return await asyncio.to_thread(method, *arguments, **named)

    async def each(
        self,
        name: str,
        *arguments: Any,
        seen: Callable[[Any], Any] | None = None,
        most: int | None = None,
        **named: Any,
    ) -> list[Any]:
        """All items of an iterator, or the first ones; ``seen`` is called with each, on the client's thread."""
        found: list[Any] = []
        items = getattr(self.client, name)(*arguments, **named)

        def take(item: Any) -> bool:
            found.append(item)
            if seen:
                seen(item)
            return len(found) == most

        if isinstance(self.client, AsyncPlantain):
            async for item in items:
                if take(item):
                    break
            await items.aclose()
            return found

        def iterate() -> None:
            for item in items:
                if take(item):
                    break
            items.close()

        await asyncio.to_thread(iterate)
        return found


@pytest.fixture(params=["blocking", "asyncio"])
async def face(request: pytest.FixtureRequest, proxy: Proxy, key: str) -> AsyncIterator[Face]:
    url = f"http://127.0.0.1:{proxy.port}"
    if request.param == "blocking":
        with Plantain(url, key, retries=QUICK, timeout=5) as client:
            yield Face(client)
    else:
        async with AsyncPlantain(url, key, retries=QUICK, timeout=5) as other:
            yield Face(other)
