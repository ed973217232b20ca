"""A real API process with jobs in every state, and the seed of what is asked of it at random."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from random import SystemRandom
from uuid import uuid4

import httpx
import pytest

from shared.batches import queries as batches
from shared.config import Settings
from shared.db import Database
from shared.jobs.status import State
from tests import factories
from tests.integration.api.test_server import Server

_HERE = Path(__file__).parent
_SEED = pytest.StashKey[int | None]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--contract-seed", type=int, help="the seed of what is asked of the API at random")


def pytest_configure(config: pytest.Config) -> None:
    given = config.getoption("--contract-seed", default=None) or os.environ.get("CONTRACT_SEED")
    config.stash[_SEED] = int(given) if given else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The slow ones run where this folder, or a file in it, was asked for by name: ``scripts/test --contract``."""
    if any("contract/api" in argument for argument in config.args):
        return
    slow = [item for item in items if item.path.is_relative_to(_HERE) and item.get_closest_marker("slow")]
    if slow:
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]


@pytest.fixture
def seed(request: pytest.FixtureRequest, pytestconfig: pytest.Config) -> int:
    """Short tests ask the same every time, slow ones something else: ``--contract-seed 7`` or CONTRACT_SEED=7 repeats it."""
    given = pytestconfig.stash[_SEED]
    if given is None:
        slow = request.node.get_closest_marker("slow") is not None
        given = SystemRandom().randrange(1, 1_000_000) if slow else 1
    print(f"again: scripts/test --contract --contract-seed {given}")
    return given


@dataclass(frozen=True)
class Api:
    """The API, with some of what a client could have put there."""

    server: Server
    key: str
    jobs: list[str]
    artifacts: list[str]
    #: Batches that are completed: their streams end.
    batches: list[str]
    #: A job that succeeded.
    final: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"


async def _batch(server: Server, key: str, database: Database) -> str:
    """The id of a batch that was cancelled."""
    base = f"http://127.0.0.1:{server.port}/api/v1/batches"
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {key}"}) as client:
        made = (await client.post(base, json={"jobs": [factories.TEXT_JOB] * 3})).json()
        await client.post(f"{base}/{made['id']}/cancel")
    async with database.transaction() as db:
        await batches.complete(db, limit=1)
    return str(made["id"])


@pytest.fixture
async def api(settings: Settings, database: Database, tmp_path: Path) -> AsyncIterator[Api]:
    """No worker runs: what is submitted stays queued."""
    key = await factories.key(database)
    project = await factories.project(database)
    jobs, artifacts = [], [str(uuid4())]
    for state in list(State) * 4:
        row = await factories.job(database, project, state=state)
        jobs.append(str(row.id))
        if state is State.SUCCEEDED:
            artifacts.append(str(await factories.artifact(database, row, b"\x89PNG" * 50_000)))
    made = Server(settings, tmp_path / "api.log", API_MAX_WAITING="1000")
    try:
        ended = [await _batch(made, key, database)]
        yield Api(made, key, jobs, artifacts, ended, jobs[list(State).index(State.SUCCEEDED)])
    finally:
        made.process.kill()
        made.process.wait()
