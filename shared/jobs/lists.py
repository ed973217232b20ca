"""What the API does with many jobs: pages, counts, and the cancel of all that a filter lets through."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row

from shared.coalesce import FreshFlight
from shared.config import Settings
from shared.db import Database, within
from shared.jobs import queries, search, totals
from shared.jobs.cursors import cursor_of, read_cursor
from shared.jobs.list_schemas import JobFilter, JobQuery, JobsCancel, SummaryQuery
from shared.jobs.status import FINAL, State
from shared.jobs.waiting import Waiting
from shared.wakeups import Wakeups

#: Jobs that are cancelled in one transaction, and seconds that one request spends on it at most.
_CANCEL_BATCH = 200
_CANCEL_ALL_SECONDS = 5.0

#: What a summary is of: project, the times that bound its final jobs, batch.
Asked = tuple[UUID, datetime | None, datetime | None, UUID | None]


class JobLists:
    """One a process. Everything is within one project."""

    def __init__(self, database: Database, settings: Settings, wakeups: Wakeups, waiting: Waiting) -> None:
        self._database = database
        self._wakeups = wakeups
        self._waiting = waiting
        #: Beyond the statement timeout: only a server that hangs takes longer.
        self._patience = settings.database_statement_timeout + 1
        self._summaries: FreshFlight[Asked, dict[str, Any]] = FreshFlight(self._summarise)

    async def page(self, project_id: UUID, query: JobQuery) -> tuple[list[Row[Any]], str | None]:
        """A page and the cursor of the next one.

        Raises:
            BadRequest: the cursor is not one of ours.
        """
        after = read_cursor(query.cursor) if query.cursor else None

        async def read() -> search.Page:
            async with self._database.transaction() as db:
                return await search.page(db, project_id, query, limit=query.limit, after=after)

        page = await within(self._patience, read())
        return page.rows, cursor_of(page.next) if page.next else None

    async def summary(self, project_id: UUID, query: SummaryQuery) -> dict[str, Any]:
        """``JobsSummary``: what the project's jobs are, why they wait, and what they cost.

        Counted anew for whoever asks, and once for all who ask the same while it is counted for others.
        """
        asked = (project_id, query.finished_after, query.finished_before, query.batch)
        # Who waits for the next count waits no longer than others where the server hangs.
        return await within(self._patience, self._summaries(asked))

    async def _summarise(self, asked: Asked) -> dict[str, Any]:
        project_id, *window, batch = asked

        db = self._database.counts
        if batch is not None:
            counting = totals.of_batch(db, project_id, batch, *window)
        else:
            counting = totals.of_project(db, project_id, *window)
        # Called off where it takes longer: it holds the one connection for this, which may be what hangs.
        async with asyncio.timeout(self._patience):
            counted = await counting
        waiting: Counter[str] = Counter()
        for row in counted:
            if row.state == State.QUEUED:
                waiting[await self._waiting.reason(row) or ""] += row.jobs
        return totals.summary(counted, waiting)

    async def cancel_all(self, project_id: UUID, request: JobsCancel) -> dict[str, Any]:
        """``JobsCancelled``: cancels what the filter lets through, a few hundred in each transaction."""
        states = [state for state in request.filter.state or State if state not in FINAL]
        wanted = request.filter.model_copy(update={"state": states})
        found: Counter[str] = Counter()
        after: search.Position | None = None
        ends_at = time.monotonic() + _CANCEL_ALL_SECONDS
        more = bool(states)
        while more and found["matched"] < request.limit and time.monotonic() < ends_at:
            limit = min(_CANCEL_BATCH, request.limit - found["matched"])
            page, changed = await within(
                self._patience, self._cancel_page(project_id, wanted, limit, after, dry_run=request.dry_run)
            )
            found["matched"] += len(page.rows)
            self._wakeups.changed([(project_id, row.id) for row in changed])
            found.update(row.state for row in changed)
            await self._wakeups.cancels_requested([row.id for row in changed if row.state == State.RUNNING])
            after, more = page.next, page.next is not None
        return {
            "dry_run": request.dry_run,
            "matched": found["matched"],
            "cancelled": found[State.CANCELLED],
            "cancel_requested": found[State.RUNNING],
            "more": more,
        }

    async def _cancel_page(
        self, project_id: UUID, wanted: JobFilter, limit: int, after: search.Position | None, *, dry_run: bool
    ) -> tuple[search.Page, Sequence[Row[Any]]]:
        async with self._database.transaction() as db:
            page = await search.page(db, project_id, wanted, limit=limit, after=after)
            if dry_run or not page.rows:
                return page, []
            return page, await queries.cancel_many(db, project_id, [row.id for row in page.rows])
