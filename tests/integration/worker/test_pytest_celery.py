"""A smoke test with pytest-celery: its setup, clusters and nodes around our own processes instead of Docker's.

The library asks a "container" for little: whether it is ready, its output, its configuration, and to end. So its
nodes wrap an embedded Valkey and ``python -m worker``, and everything above the nodes is the library's own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kombu import pools
from pytest_celery import (
    CeleryBrokerCluster,
    CeleryTestBroker,
    CeleryTestSetup,
    CeleryTestWorker,
    CeleryWorkerCluster,
)

from shared.config import Settings
from shared.envelope import RUN_JOB
from shared.queue import make_celery
from tests.integration.worker.conftest import Table
from tests.integration.worker.processes import WORKER, Process, environment_of
from tests.patience import PATIENCE


class BrokerContainer:
    """The test's Valkey, in the words of a container."""

    name = id = "valkey"
    status = "running"

    def __init__(self, url: str) -> None:
        self.celeryconfig = {"url": url, "host_url": url}

    def ready(self) -> bool:
        return True

    def logs(self) -> str:
        return ""

    def teardown(self) -> None:
        """The session's server outlives the test."""


class WorkerContainer:
    """``python -m worker``, in the words of a container."""

    name = id = "plantain-work"

    def __init__(self, process: Process) -> None:
        self.process = process
        self.celeryconfig: dict[str, Any] = {}

    @property
    def status(self) -> str:
        return "running" if self.process.alive else "exited"

    def ready(self) -> bool:
        self.process.wait_for_output(" ready.")
        return True

    def logs(self) -> str:
        return self.process.output

    def kill(self, signal: str | int = "SIGKILL") -> None:
        if signal == "SIGTERM":
            self.process.terminate()
            self.process.wait(10)
        else:
            self.process.kill()

    def reload(self) -> None:
        """A process has nothing to look up again."""

    def restart(self, timeout: float = PATIENCE) -> None:
        self.process.start_again()
        self.ready()

    def teardown(self) -> None:
        self.process.kill()


class PlantainSetup(CeleryTestSetup):  # type: ignore[misc]
    """Its app is made as all of ours are."""

    @classmethod
    def name(cls) -> str:
        return "plantain"


@pytest.fixture
def celery_setup_cls() -> type[CeleryTestSetup]:
    return PlantainSetup


@pytest.fixture
def celery_broker_cluster(settings: Settings) -> Iterator[CeleryBrokerCluster]:
    cluster = CeleryBrokerCluster(CeleryTestBroker(BrokerContainer(settings.redis_url.get_secret_value())))
    yield cluster
    cluster.teardown()


@pytest.fixture
def celery_backend_cluster() -> None:
    """Results are PostgreSQL's business."""


@pytest.fixture
def celery_worker_cluster(
    settings: Settings, celery_setup_app: Any, tmp_path: Path
) -> Iterator[CeleryWorkerCluster]:
    # A cluster's own teardown leaves its nodes as they are.
    with Process(WORKER, environment_of(settings), tmp_path / "worker.log") as process:
        cluster = CeleryWorkerCluster(CeleryTestWorker(WorkerContainer(process), app=celery_setup_app))
        yield cluster
        cluster.teardown()


@pytest.fixture
def celery_setup_app(settings: Settings) -> Iterator[Any]:
    # kombu's pools are the process's, by address: an earlier test may have restarted the server since.
    pools.reset()  # type: ignore[no-untyped-call]
    app = make_celery(settings)
    yield app
    app.close()


async def test_a_job_runs_and_the_worker_comes_back(celery_setup: CeleryTestSetup, table: Table) -> None:
    assert celery_setup.backend_cluster is None
    worker = celery_setup.worker
    assert await asyncio.to_thread(worker.ready)

    async def run() -> None:
        job_id = await table.add()
        celery_setup.app.send_task(RUN_JOB, args=(str(job_id),), task_id=str(job_id), queue="text.standard")
        await asyncio.to_thread(worker.wait_for_log, str(job_id), timeout=int(PATIENCE))
        assert (await table.get(job_id)).state == "succeeded"

    await run()
    pong = await asyncio.to_thread(lambda: celery_setup.app.control.ping(timeout=3, limit=1))
    assert [*pong[0].values()] == [{"ok": "pong"}]
    await asyncio.to_thread(worker.restart, force=True)
    await run()
    worker.assert_log_does_not_exist("Traceback", timeout=1)
