"""When a webhook is sent again: Standard Webhooks' schedule, with jitter, and what the receiver asks for."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_MINUTE, _HOUR = 60.0, 3600.0
#: Seconds after each failure; after the last of them, one more is the end.
SCHEDULE = (
    5.0,
    5 * _MINUTE,
    30 * _MINUTE,
    2 * _HOUR,
    5 * _HOUR,
    10 * _HOUR,
    14 * _HOUR,
    20 * _HOUR,
    24 * _HOUR,
)
#: Deliveries that failed together come back apart: later by up to this part of the delay.
_JITTER = 0.2
#: Nobody is waited for longer, whatever it asks.
_LONGEST = 24 * _HOUR


def delay(failures: int, retry_after: float | None) -> float | None:
    """Seconds until the next sending; None: there is none.

    Args:
        failures: before this one.
        retry_after: what the receiver asked for, in seconds.
    """
    if failures >= len(SCHEDULE):
        return None
    planned = SCHEDULE[failures] * random.uniform(1, 1 + _JITTER)  # noqa: S311  spreads load
    return max(planned, min(retry_after or 0.0, _LONGEST))


def retry_after(value: str | None) -> float | None:
    """``Retry-After`` (RFC 9110) in seconds from now; what is neither a number nor a date is none."""
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):  # a time zone of twenty digits is the latter
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
