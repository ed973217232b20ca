"""Makes deliveries out of events, each exactly once, in the order of ``job_events``.

A cursor moves along the settled events (see ``shared.events.horizon``) in the transaction that makes the deliveries. So
nothing is lost or made twice wherever a process dies, and whoever writes events knows nothing of webhooks and pays
nothing for them.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID
from zlib import crc32

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection
from uuid_utils.compat import uuid7

from shared.config import Settings
from shared.db import Database
from shared.events import queries as events
from shared.events.horizon import Horizon
from shared.events.types import OF_JOBS
from shared.jobs.outlook import Outlook
from shared.jobs.queries import VIEW
from shared.jobs.views import dumps, job_view
from shared.jobs.waiting import Waiting
from shared.webhooks import sending

log = logging.getLogger(__name__)

#: Events that one transaction turns into deliveries.
PAGE = 200
#: Of the addresses that a project's jobs name: a claim steps over as many in 30 ms.
LANES = 4096
#: Deliveries that one statement inserts: with fifty endpoints, a page is ten thousand of them, of some kilobytes each.
_AT_ONCE = 500

_EVENTS = text(f"""
    SELECT e.id AS event_id, e.project_id AS event_project, e.job_id, e.type, e.data, e.created_at AS event_time,
        j.webhook_url, j.webhook_events, {VIEW}
    FROM job_events e LEFT JOIN jobs j ON j.id = e.job_id
    WHERE e.project_id = ANY(CAST(:projects AS uuid[])) AND e.type = ANY(CAST(:types AS text[]))
      AND e.id > :after AND e.id <= :until
    ORDER BY e.id LIMIT :limit
""")  # noqa: S608  of fixed texts


class Feed:
    """One a process; several at once do no harm."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._public_url = settings.public_url or ""
        self._waiting = Waiting(database, settings)
        self._horizon: Horizon | None = None
        #: What is known to be made, so that a look at nothing new ends soon.
        self._made = -1

    async def look(self) -> bool:
        """Makes what deliveries can be made. False: nobody wants to hear of anything."""
        async with self._database.reading() as db:
            if not await sending.anybody(db):
                self._horizon = None
                return False
            if self._horizon is None:
                self._horizon = Horizon(await sending.progress(db))
            mark, oldest = await events.mark(db), await events.oldest(db)
        if mark.id < self._horizon.settled and not await self._set_back(mark.id):
            return True
        self._horizon.note(mark)
        self._horizon.settle(oldest)
        while self._made < self._horizon.settled and await self._make_page(self._horizon.settled):
            pass
        return True

    @property
    def waits(self) -> bool:
        """Whether there are events that are not settled yet."""
        return self._horizon is not None and self._horizon.waits

    async def _set_back(self, newest: int) -> bool:
        """Goes on in a database whose events end before what was seen: from where its own progress says.

        Returns:
            False: somebody else makes deliveries at this moment.
        """
        async with self._database.transaction() as db:
            through = await sending.lock_progress(db)
            if through is None:
                return False
            if through > newest:
                await sending.move_on(db, newest)
        through = min(through, newest)
        log.error("the database was set back to event %d: webhooks go on from %d", newest, through)
        self._horizon, self._made = Horizon(through), -1
        return True

    async def _make_page(self, until: int) -> bool:
        """Whether there is more. Another process that is at it right now goes on instead."""
        async with self._database.transaction() as db:
            after = await sending.lock_progress(db)
            if after is None:
                return False
            if after >= until:
                self._made = after
                return False
            listeners = Listeners(await sending.listeners(db))
            page = await self._read(db, listeners, after, until)
            rows = [row for event in page for row in await self._deliveries(event, listeners)]
            for start in range(0, len(rows), _AT_ONCE):
                await sending.make(db, rows[start : start + _AT_ONCE])
            full = len(page) == PAGE
            through = page[-1].event_id if full else until
            await sending.move_on(db, through)
        self._made = through
        return full

    async def _read(
        self, db: AsyncConnection, listeners: Listeners, after: int, until: int
    ) -> Sequence[Row[Any]]:
        # Those who listen now have all come later than these: nothing to read, however far that is.
        after = max(after, listeners.since)
        if after >= until:
            return []
        parameters = {
            "projects": list(listeners.projects),
            "types": sorted(listeners.types),
            "after": after,
            "until": until,
            "limit": PAGE,
        }
        return list(await db.execute(_EVENTS, parameters))

    async def _deliveries(self, event: Row[Any], listeners: Listeners) -> list[dict[str, Any]]:
        wanted = [
            {"endpoint_id": endpoint.id, "url": None, "lane": ""}
            for endpoint in listeners.of(event.event_project)
            if endpoint.url is not None
            and event.type in endpoint.events
            and event.event_id > endpoint.since_event
        ]
        own = listeners.of_jobs.get(event.event_project)
        if event.webhook_url is not None and own is not None and event.type in event.webhook_events:
            wanted.append({"endpoint_id": own, "url": event.webhook_url, "lane": lane_of(event.webhook_url)})
        if not wanted:
            return []
        body = await self._body(event)
        about = {
            "project_id": event.event_project,
            "event_id": event.event_id,
            "job_id": event.job_id,
            "type": event.type,
            "body": body,
        }
        return [{"id": uuid7(), **about, **each} for each in wanted]

    async def _body(self, event: Row[Any]) -> str:
        """The message: the job as a client sees it now, which may be after further events."""
        data = event.data
        if event.job_id is not None:
            data = job_view(event, Outlook(await self._waiting.reason(event)), self._public_url)
        return dumps({"type": event.type, "timestamp": event.event_time, "data": data}).decode()


class Listeners:
    """Who wants to hear of what."""

    def __init__(self, endpoints: Iterable[Row[Any]]) -> None:
        self._of_project: defaultdict[UUID, list[Row[Any]]] = defaultdict(list)
        #: By project, what stands for its jobs' own addresses.
        self.of_jobs: dict[UUID, UUID] = {}
        self.types: set[str] = set()
        since: list[int] = []
        for endpoint in endpoints:
            self._of_project[endpoint.project_id].append(endpoint)
            self.types.update(endpoint.events)
            since.append(endpoint.since_event)
            if endpoint.url is None:
                self.types.update(OF_JOBS)
                self.of_jobs[endpoint.project_id] = endpoint.id
        self.since = min(since, default=0)

    @property
    def projects(self) -> Mapping[UUID, Any]:
        return self._of_project

    def of(self, project_id: UUID) -> Sequence[Row[Any]]:
        return self._of_project.get(project_id, ())


def lane_of(url: str) -> str:
    """Deliveries to the same server share its connections.

    A project has so many lanes at most, and few servers then share one by chance: each claim looks at every lane.
    """
    parts = urlsplit(url)
    return f"{crc32(f'{parts.scheme}://{parts.netloc.lower()}'.encode()) % LANES:03x}"
