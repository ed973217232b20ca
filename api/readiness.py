"""Whether jobs can be accepted, asked of each dependency, and answered in time even where one hangs."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from shared.config import Settings
from shared.db import Database
from shared.outage import Outage
from shared.queue import ALL_QUEUES
from shared.wakeups import Wakeups
from shared.workers import queries as workers

log = logging.getLogger(__name__)

#: A check that takes longer counts as failed.
CHECK_SECONDS = 1.5
_VERSIONS = Path(__file__).resolve().parent.parent / "migrations" / "versions"
_HINTS = {
    "missing": "The database has no tables yet: run scripts/migrate.",
    "behind": "The database's tables are older than this program: run scripts/migrate.",
}
_NO_WRITES = {
    "read_only": "PostgreSQL is read-only: it is a standby, or default_transaction_read_only is on. Jobs are not accepted.",
    "full": "PostgreSQL's disk is full: make room. Jobs are not accepted.",
}
_REVISION = text("SELECT version_num FROM alembic_version")
_READ_ONLY = text("SELECT current_setting('transaction_read_only')::bool")


class Readiness:
    """The checks of one process. Has a connection of its own: a busy pool is no reason to be taken out of service."""

    def __init__(self, settings: Settings, wakeups: Wakeups, main: Database) -> None:
        """``main``: the database as requests use it, which learns from their writes what a check cannot see."""
        self._main = main
        self._database = Database(
            settings.model_copy(
                update={
                    "database_pool_size": 1,
                    "database_connect_timeout": 2,
                    "database_statement_timeout": CHECK_SECONDS,
                }
            ),
            application="plantain api health",
        )
        self._postgresql = _Check(self._ask_postgresql, self._database.outage)
        self._redis = _Check(wakeups.ping, Outage(log, "Redis"))
        self._known = revisions()

    async def report(self) -> tuple[bool, dict[str, Any]]:
        """Whether jobs can be accepted, and the document that says why (not)."""
        postgresql, redis = await asyncio.gather(self._postgresql(), self._redis())
        alive: dict[str, int] | None = None
        if postgresql["state"] != "unavailable":
            alive = postgresql.pop("workers")
        accepting = postgresql["state"] == "ok" and postgresql["migrations"] in {"current", "newer"}
        complete = accepting and redis["state"] == "ok" and alive is not None and all(alive.values())
        return accepting, {
            "status": "ready" if complete else "degraded" if accepting else "unavailable",
            "dependencies": {"postgresql": postgresql, "redis": redis, "workers": _workers(alive)},
        }

    async def log_once(self) -> None:
        """One line at start about what is missing, with the next step."""
        accepting, report = await self.report()
        if not accepting:
            postgresql = report["dependencies"]["postgresql"]
            log.warning(
                "not ready: %s", postgresql.get("detail", "PostgreSQL is away; it will be tried again.")
            )

    async def close(self) -> None:
        await asyncio.gather(self._postgresql.close(), self._redis.close())
        await self._database.close()

    async def _ask_postgresql(self) -> dict[str, Any]:
        async with self._database.transaction() as db:
            read_only = (await db.execute(_READ_ONLY)).scalar_one()
            try:
                revision = (await db.execute(_REVISION)).scalar_one_or_none()
            except ProgrammingError:
                revision = None
            migrations = self._migrations(revision)
            if migrations in _HINTS:
                found: dict[str, Any] = {
                    "migrations": migrations,
                    "detail": _HINTS[migrations],
                    "workers": {},
                }
            else:
                alive = await workers.alive(db)
                found = {
                    "migrations": migrations,
                    "workers": {name: alive.get(name, 0) for name in ALL_QUEUES},
                }
        if read_only or self._main.refuses_writes == "full":
            state = "read_only" if read_only else "full"
            found |= {"state": state, "detail": _NO_WRITES[state]}
        return {**found, "revision": revision, "expected_revision": self._known[-1]}

    def _migrations(self, revision: str | None) -> str:
        if revision is None:
            return "missing"
        if revision == self._known[-1]:
            return "current"
        # A revision that this program does not know comes from a later one that is being rolled out.
        return "behind" if revision in self._known else "newer"


class _Check:
    """Asks at most once at a time: where an answer is overdue, nobody piles up behind it."""

    def __init__(self, ask: Callable[[], Coroutine[Any, Any, dict[str, Any] | None]], outage: Outage) -> None:
        self._ask = ask
        #: Told why the dependency is away: that holds addresses, which the answer must not.
        self._outage = outage
        self._task: asyncio.Task[dict[str, Any] | None] | None = None

    async def __call__(self) -> dict[str, Any]:
        started = time.perf_counter()
        # Waited for, not cancelled: the database's driver would wait for a hung server before it lets go.
        if self._task is not None and not self._task.done():
            # What began before us may have read what was true before.
            await asyncio.wait({self._task}, timeout=CHECK_SECONDS)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._ask())
            self._task.add_done_callback(lambda done: done.cancelled() or done.exception())
        left = CHECK_SECONDS - (time.perf_counter() - started)
        done, _ = await asyncio.wait({self._task}, timeout=max(left, 0.0))
        milliseconds = round((time.perf_counter() - started) * 1000, 1)
        if not done:
            self._outage.failed(TimeoutError(f"no answer to a health check within {CHECK_SECONDS} s"))
            return {"state": "unavailable", "detail": f"no answer within {CHECK_SECONDS} s"}
        try:
            found = self._task.result() or {}
        except Exception as error:  # noqa: BLE001  whatever a client raises: the dependency is away
            self._outage.failed(error)
            return {"state": "unavailable", "detail": type(getattr(error, "orig", error)).__name__}
        self._outage.went_well()
        return {"state": "ok", "latency_ms": milliseconds, **found}

    async def close(self) -> None:
        """Waits for what is under way: a connection cut off while it is being made stays open at the server."""
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=CHECK_SECONDS)


def _workers(alive: dict[str, int] | None) -> dict[str, Any]:
    if alive is None:
        return {"state": "unknown"}
    missing = [name for name, count in alive.items() if not count]
    if not missing:
        return {"state": "ok", "alive": alive}
    detail = f"No worker takes jobs from {', '.join(missing)}; jobs wait there. Start one: python -m worker."
    return {"state": "missing", "alive": alive, "detail": detail}


def revisions(folder: Path = _VERSIONS) -> list[str]:
    """The migrations' revisions, oldest first, read from the files: Alembic would be a slow import for this."""
    parents: dict[str | None, str] = {}
    for path in folder.glob("*.py"):
        source = path.read_text(encoding="utf-8")
        revision, parent = (_assigned(source, name) for name in ("revision", "down_revision"))
        if revision:
            parents[parent] = revision
    ordered: list[str] = []
    while (following := parents.get(ordered[-1] if ordered else None)) is not None:
        ordered.append(following)
    return ordered


def _assigned(source: str, name: str) -> str | None:
    match = re.search(rf"^{name}(?:: [^=]+)? = (?:\"([^\"]+)\"|None)", source, re.MULTILINE)
    return match[1] if match else None
