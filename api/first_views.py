"""The answer to a submit: the view of a job that was just stored, as JSON, and what stands before it.

Jobs of one shape (the same kind, model and settings) differ in few places of it, so the rest is rendered once: that is
half of what an answer to a submit costs.
"""

from __future__ import annotations

from collections.abc import Hashable
from datetime import UTC, datetime
from uuid import uuid4

from api.render import PREFIX, Whole, dumps, etag, job_view, retry_after
from shared.jobs.outlook import Outlook
from shared.jobs.queries import NewJob
from shared.jobs.status import WaitingReason
from shared.names import name_of

#: Shapes that are kept; clients choose some of what makes one.
_MOST = 500
# What stands in a text where jobs differ, until it is known where: nothing else looks like these.
_ID = uuid4()
_TIME = datetime(1, 2, 3, 4, 5, 6, 789, tzinfo=UTC)
_REQUEST = "\1"
#: As ``api.routers.jobs.accepted`` has them, and as ``JsonResponse`` adds to them.
_LINES = (
    b"cache-control: no-store\r\nlocation: %b%b\r\netag: %b\r\nretry-after: %b\r\n"
    b"content-type: application/json\r\ncontent-length: %d\r\n"
)
_EMPTY = {b"queue_position": b"null", b"estimated_start": b"null", b"tags": b"[]", b"metadata": b"{}"}


class FirstViews:
    """One a process."""

    def __init__(self, public_url: str) -> None:
        self._public_url = public_url
        self._jobs = f"{public_url}{PREFIX}/jobs/".encode("latin-1")
        #: Texts with a place for each value, as bytes are formatted.
        self._texts: dict[Hashable, bytes] = {}

    def answer(self, row: NewJob, outlook: Outlook) -> Whole:
        """202 with the new job."""
        name = name_of(row.id)
        view = self.of(row, outlook, name)
        tag, after = etag(row, outlook).encode(), retry_after(row, outlook)["Retry-After"].encode()
        return Whole.of_lines(202, _LINES % (self._jobs, name, tag, after, len(view)), view)

    def of(self, row: NewJob, outlook: Outlook, name: bytes) -> bytes:
        """What ``dumps(job_view(...))`` makes; ``name`` is the job's id."""
        if row.warnings or row.expires_at or row.replay_of or row.waiting_until:  # few have any
            return dumps(job_view(row, outlook, self._public_url))
        shape = (
            row.kind,
            row.model,
            row.priority,
            row.max_attempts,
            row.timeout_seconds,
            row.on_unknown,
            row.keep_seconds,
            row.stream,
            outlook.reason,
        )
        text = self._texts.get(shape)
        if text is None:
            text = self._keep(shape, row, outlook.reason)
        created = dumps(row.created_at)
        return text % (
            name,
            b"null" if outlook.position is None else b"%d" % outlook.position,
            b"null" if outlook.start is None else dumps(outlook.start._asdict()),
            created,
            created if row.scheduled_at is row.created_at else dumps(row.scheduled_at),
            dumps(row.request_id),
            dumps(row.tags) if row.tags else b"[]",
            dumps(row.metadata) if row.metadata else b"{}",
            name,
            name,
            name,
            name,
        )

    def _keep(self, shape: Hashable, row: NewJob, reason: WaitingReason | None) -> bytes:
        if len(self._texts) >= _MOST:
            self._texts.clear()
        like = row._replace(
            id=_ID, created_at=_TIME, scheduled_at=_TIME, request_id=_REQUEST, tags=[], metadata={}
        )
        text = dumps(job_view(like, Outlook(reason), self._public_url)).replace(b"%", b"%%")
        for known in (_TIME, _REQUEST):
            text = text.replace(dumps(known), b"%b")
        for name, value in _EMPTY.items():
            text = text.replace(b'"%b":%b' % (name, value), b'"%b":%%b' % name)
        text = self._texts[shape] = text.replace(str(_ID).encode(), b"%b")
        return text
