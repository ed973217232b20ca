"""Fixtures for everybody: real PostgreSQL and Valkey, a migrated database for each test, and settings for them.

    settings     the Settings of one test: a database of its own, an empty Redis
    database     shared.db.Database on it, closed at the end
    wakeups      shared.wakeups.Wakeups on that Redis, likewise
    postgres     the PostgreSQL server, to stop, kill and restart: session-wide, so put it back
    valkey       the Valkey server, likewise

The servers come from ``scripts.embedded``, started once a run. ``TEST_DATABASE_URL`` (a role that may create
databases) and ``TEST_REDIS_URL`` (its contents are deleted) name servers that exist; tests that stop a server skip then.
A test gets a clone of a template that was migrated once: about 30 ms, and tests cannot see each other.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
import pytest
from alembic import command
from alembic.config import Config
from redis import Redis
from sqlalchemy import create_engine

from scripts.embedded import EmbeddedPostgres, EmbeddedValkey
from shared.config import Environment, Settings, get_settings
from shared.db import Database
from shared.wakeups import Wakeups
from tests.patience import PATIENCE

ROOT = Path(__file__).resolve().parent.parent
#: Speed instead of durability: these databases live for seconds.
_FAST = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "autovacuum": "off",
    "max_connections": "300",
}

SettingsFactory = Callable[..., Settings]


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No setting of whoever runs the tests reaches them, least of all a real key."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
        monkeypatch.delenv(name, raising=False)
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()


@pytest.fixture(scope="session")
def servers_folder() -> Iterator[Path]:
    """Where the embedded servers keep their data; directly below the system's folder, as root's servers need."""
    with tempfile.TemporaryDirectory(prefix="plantain-test-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def _postgres(servers_folder: Path) -> Iterator[EmbeddedPostgres | None]:
    if "TEST_DATABASE_URL" in os.environ:
        yield None
        return
    with EmbeddedPostgres(servers_folder, settings=_FAST) as server:
        yield server


@pytest.fixture(scope="session")
def _valkey(servers_folder: Path) -> Iterator[EmbeddedValkey | None]:
    if "TEST_REDIS_URL" in os.environ:
        yield None
        return
    with EmbeddedValkey(servers_folder) as server:
        yield server


@pytest.fixture
def postgres(_postgres: EmbeddedPostgres | None) -> Iterator[EmbeddedPostgres]:
    """The server itself. It runs again when the test ends."""
    if _postgres is None:
        pytest.skip("needs a PostgreSQL that it may stop; unset TEST_DATABASE_URL")
    yield _postgres
    if not _postgres.alive:
        _postgres.start()


@pytest.fixture
def valkey(_valkey: EmbeddedValkey | None) -> Iterator[EmbeddedValkey]:
    """The server itself. It runs again when the test ends."""
    if _valkey is None:
        pytest.skip("needs a Redis that it may stop; unset TEST_REDIS_URL")
    yield _valkey
    if not _valkey.alive:
        _valkey.start()


@pytest.fixture(scope="session")
def server_url(_postgres: EmbeddedPostgres | None) -> Iterator[str]:
    """The PostgreSQL server, with a database from which others can be made."""
    yield _postgres.url if _postgres else os.environ["TEST_DATABASE_URL"]
    while _administrators:
        _administrators.popitem()[1].close()


@pytest.fixture(scope="session")
def template_database(server_url: str) -> Iterator[str]:
    """The name of a database that was migrated to head; nobody is connected to it."""
    name = f"plantain_test_{uuid4().hex[:12]}_template"
    with scratch_database(server_url, name) as url:
        migrate(url)
        yield name


@pytest.fixture
def empty_database_url(server_url: str) -> Iterator[str]:
    """A database without a table."""
    with scratch_database(server_url, f"plantain_test_{uuid4().hex[:12]}") as url:
        yield url


@pytest.fixture
def database_url(server_url: str, template_database: str) -> Iterator[str]:
    """A migrated database of the test's own."""
    with scratch_database(server_url, f"plantain_test_{uuid4().hex[:12]}", template_database) as url:
        yield url


@pytest.fixture
def redis_url(_valkey: EmbeddedValkey | None) -> str:
    """An empty Redis."""
    url = _valkey.url if _valkey else os.environ["TEST_REDIS_URL"]
    with Redis.from_url(url) as client:
        client.flushdb()
    return url


@pytest.fixture
def make_settings(database_url: str, redis_url: str) -> SettingsFactory:
    """Settings for the test's database and Redis, with fields of its choice."""

    def make(**fields: Any) -> Settings:
        return settings_of(**{"database_url": database_url, "redis_url": redis_url, **fields})

    return make


@pytest.fixture
def settings(make_settings: SettingsFactory) -> Settings:
    return make_settings()


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[Database]:
    # Many of a test's own statements at once may wait for a connection for longer than a user should.
    patient = settings.model_copy(update={"database_connect_timeout": PATIENCE})
    made = Database(patient, application="plantain test")
    yield made
    await made.close()


@pytest.fixture
async def wakeups(settings: Settings) -> AsyncIterator[Wakeups]:
    made = Wakeups(settings)
    yield made
    await made.close()


def settings_of(**fields: Any) -> Settings:
    """Settings from these fields alone: no ``.env`` is read."""
    return Settings(_env_file=None, **{"environment": Environment.TEST, **fields})


@contextmanager
def scratch_database(server_url: str, name: str, template: str = "template1") -> Iterator[str]:
    """A database's address; it is dropped at the end, with whoever is still connected."""

    # Copying files costs no CPU, and a checkpoint, which is only cheap on a server that does not sync.
    strategy = "WAL_LOG" if "TEST_DATABASE_URL" in os.environ else "FILE_COPY"
    _execute(server_url, f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY {strategy}')
    try:
        yield urlsplit(server_url)._replace(path=f"/{name}").geturl()
    finally:
        _execute(server_url, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


#: One connection a server, held open: connecting takes 10 ms, twice a test.
_administrators: dict[str, psycopg.Connection[Any]] = {}


def _execute(server_url: str, statement: str) -> None:
    for last in (False, True):
        held = _administrators.get(server_url)
        if held is None or held.closed:
            held = _administrators[server_url] = psycopg.connect(server_url, autocommit=True)
        try:
            held.execute(statement.encode())
        except psycopg.OperationalError:  # a test has stopped the server meanwhile
            held.close()
            if last:
                raise
        else:
            return


def migrate(url: str, revision: str = "head") -> None:
    """Alembic's upgrade, in this process: a second instead of three."""
    config = Config(toml_file=ROOT / "pyproject.toml")
    engine = create_engine(f"postgresql+psycopg://{url.partition('://')[2]}")
    try:
        with engine.connect() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, revision)
            connection.commit()
    finally:
        engine.dispose()
