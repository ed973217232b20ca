"""Where a page of a list ends, as its client gives it back for the next one."""

from __future__ import annotations

import base64
import binascii
from datetime import datetime
from uuid import UUID

from shared.errors import BadRequest, FieldError
from shared.jobs.search import Position


def cursor_of(position: Position) -> str:
    """The text that ``read_cursor`` reads."""
    return (
        base64.urlsafe_b64encode(f"{position.created_at.isoformat()}/{position.id}".encode())
        .decode()
        .rstrip("=")
    )


def read_cursor(cursor: str) -> Position:
    """Raises: BadRequest: it is not one of ours."""
    try:
        decoded = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
        moment, _, job_id = decoded.partition("/")
        parsed = datetime.fromisoformat(moment)
        if parsed.tzinfo is None:
            raise ValueError("no time zone")
        return Position(parsed, UUID(job_id))
    except (ValueError, binascii.Error):
        raise BadRequest(
            "The cursor is not one that this API gave out; leave it out to start at the newest one.",
            code="invalid_cursor",
            errors=[FieldError("?cursor", "invalid", "not a cursor from next_cursor")],
        ) from None
