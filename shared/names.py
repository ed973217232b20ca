"""A job's id as text."""

from __future__ import annotations

from uuid import UUID

import orjson


def name_of(job_id: UUID) -> bytes:
    """What ``str(job_id).encode()`` is, in a quarter of the time: each submit needs it several times."""
    return orjson.dumps(job_id)[1:-1]
