"""Many jobs again, as one batch."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text

from shared.batches.intake import Intake
from shared.batches.replay_schemas import JobsReplay
from shared.batches.schemas import BatchOptions
from shared.config import Settings
from shared.db import Database, within
from shared.errors import MAX_ERRORS, AppError, FieldError, ValidationFailed
from shared.jobs import replays, search
from shared.jobs.cursors import cursor_of, read_cursor
from shared.jobs.service import JobService
from shared.jobs.status import FINAL
from shared.kinds.base import INPUT_URLS
from shared.steps import Steps

_PAGE = 200
#: No page is begun after so many seconds; the answer says where to go on.
_SECONDS = 10.0
_SAMPLE = 5
#: Of inputs, as they are stored, that are read at once.
_READ_BYTES = 1_000_000

_WITH_PICTURES = text("""
    SELECT job_id, coalesce(sum(byte_size) FILTER (WHERE upload_id IS NULL), 0)::bigint AS bytes FROM artifacts
    WHERE job_id = ANY(CAST(:ids AS uuid[])) AND role = 'input' GROUP BY job_id
""")


@dataclass(slots=True)
class Found:
    """What matched, and what of it can be run again: the jobs of a batch that is not stored yet."""

    intake: Intake
    matched: int = 0
    skipped: int = 0
    problems: list[dict[str, Any]] = field(default_factory=list)
    #: Of the first ones that were skipped, in full.
    errors: list[FieldError] = field(default_factory=list)
    sample: list[Row[Any]] = field(default_factory=list)
    next_cursor: str | None = None

    def skip(self, job_id: UUID, error: AppError) -> None:
        self.skipped += 1
        if len(self.problems) < MAX_ERRORS:
            first = error.errors[0] if error.errors else FieldError("", error.code, error.detail)
            self.problems.append(
                {"job_id": job_id, "code": first.code, "message": f"{first.pointer} {first.message}".strip()}
            )
            self.errors += error.errors


class BulkReplays:
    """One a process."""

    def __init__(self, database: Database, settings: Settings, jobs: JobService) -> None:
        self._database = database
        self._jobs = jobs
        self._patience = settings.database_statement_timeout + 1
        #: What the new jobs may take together, and so in memory.
        self._most_bytes = settings.max_body_bytes

    async def find(self, project_id: UUID, wanted: JobsReplay, *, request_id: str | None) -> Found:
        """Looks for jobs, newest first, and checks each as if it were submitted now; stores nothing.

        Raises:
            BadRequest: the cursor is not one of ours.
            ValidationFailed: not one of those that match can be run again like this.
        """
        states = [state for state in wanted.filter.state or FINAL if state in FINAL]
        filtered = wanted.filter.model_copy(update={"state": states})
        found = Found(Intake(project_id, BatchOptions(), request_id))
        after = read_cursor(wanted.cursor) if wanted.cursor else None
        ends_at = time.monotonic() + _SECONDS
        more = bool(states)
        with Steps() as steps:
            while more:
                limit = min(_PAGE, wanted.limit - found.matched)
                page = await within(self._patience, self._page(project_id, filtered, limit, after))
                taken = await self._take_page(found, page.rows, wanted.changes, steps)
                after = page.next
                if taken < len(page.rows):  # no more fits
                    last = page.rows[taken - 1]
                    after = search.Position(last.created_at, last.id)
                    break
                more = after is not None and found.matched < wanted.limit and time.monotonic() < ends_at
        found.next_cursor = cursor_of(after) if after else None
        if found.skipped and not found.intake.total:
            raise ValidationFailed(
                f"None of the {found.matched:,} jobs that match can be run again like this.",
                errors=found.errors,
            )
        return found

    async def _page(
        self, project_id: UUID, wanted: Any, limit: int, after: search.Position | None
    ) -> search.Page:
        async with self._database.transaction() as db:
            return await search.page(db, project_id, wanted, limit=limit, after=after)

    async def _take_page(
        self, found: Found, rows: Sequence[Row[Any]], changes: dict[str, Any], steps: Steps
    ) -> int:
        """Takes jobs until no more fit; answers how many. At least one, so that it goes on."""
        pictures = await within(self._patience, self._pictures([row.id for row in rows])) if rows else {}
        sources: dict[UUID, dict[str, Any]] = {}
        with_images = not replays.brings_images(changes)
        for number, row in enumerate(rows):
            if steps.due:
                await steps.rest()
            if found.intake.total and found.intake.size + pictures.get(row.id, 0) > self._most_bytes:
                return number
            if row.id not in sources:
                ahead = [later.id for later in rows[number:]]
                sources = await within(self._patience, self._sources(row.project_id, ahead))
            found.matched += 1
            if len(found.sample) < _SAMPLE:
                found.sample.append(row)
            if (source := sources.pop(row.id, None)) is None:
                continue  # deleted a moment ago
            try:
                if row.id in pictures or INPUT_URLS in source["input"]:
                    source = await within(
                        self._patience, self._completed(row.id, source, with_images=with_images)
                    )
                request = replays.changed(source, changes)
                draft = await found.intake.draft(self._jobs, request, replay_of=row.id)
            except AppError as error:
                found.skip(row.id, error)
            else:
                found.intake.keep(draft, found.intake.total)
        return len(rows)

    async def _pictures(self, ids: Sequence[UUID]) -> dict[UUID, int]:
        """Of those jobs that came with pictures, how many bytes these have; uploads are only referred to."""
        async with self._database.reading() as db:
            return {row.job_id: row.bytes for row in await db.execute(_WITH_PICTURES, {"ids": list(ids)})}

    async def _sources(self, project_id: UUID, ids: Sequence[UUID]) -> dict[UUID, dict[str, Any]]:
        async with self._database.reading() as db:
            return await replays.sources(db, project_id, ids, most_bytes=_READ_BYTES)

    async def _completed(self, job_id: UUID, source: dict[str, Any], *, with_images: bool) -> dict[str, Any]:
        async with self._database.reading() as db:
            return await replays.completed(db, job_id, source, with_images=with_images)
