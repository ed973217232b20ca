"""The one line that a worker logs for each attempt that has ended."""

from __future__ import annotations

import logging
import time
from typing import Any

from shared.jobs.status import Outcome, State
from worker.flights import Flight

log = logging.getLogger(__name__)

_LONGEST_MESSAGE = 300
_WORDS = {
    Outcome.SUCCEEDED: "succeeded",
    Outcome.FAILED: "failed",
    Outcome.UNKNOWN: "has an unknown outcome",
    Outcome.LOST: "was given back",
    Outcome.CANCELLED: "was cancelled",
}


def ended(flight: Flight, row: dict[str, Any], state: str | None) -> None:
    """Says how an attempt ended and what follows.

    Args:
        row: the ending as it was to be written.
        state: the job's, now that it was; None: the job is another attempt's, and nothing was written.
    """
    error = row["error"] or {}
    sentence = [f"attempt {row['number']} {_WORDS[row['outcome']]}"]
    if error:
        sentence.append(f": {error['message'][:_LONGEST_MESSAGE].rstrip('. ')}")
    sentence.append(_consequence(row, state))
    fields = {
        "model": flight.model,
        "seconds": round(time.monotonic() - flight.started, 2),
        "outcome": str(row["outcome"]),
        "error_code": error.get("code"),
        "provider_status": error.get("provider_status"),
    }
    level = logging.WARNING if state is None or state == State.FAILED else logging.INFO
    told = {name: value for name, value in fields.items() if value is not None}
    log.log(level, "%s", "".join(sentence), extra=told)


def _consequence(row: dict[str, Any], state: str | None) -> str:
    if state is None:
        return "; too late: it is no longer ours"
    if state == State.QUEUED:
        return f"; again in {row['delay']:.1f} s" if row["delay"] >= 0.05 else "; again at once"
    if state == State.FAILED:
        return "; the job failed"
    return "; the job was cancelled" if state == State.CANCELLED and row["outcome"] != state else ""
