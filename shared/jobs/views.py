"""A job as everybody outside sees it: in answers of the API and in webhooks.

Built by hand: a dictionary and orjson, without a second validation of what the database already guards.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import orjson

from shared.jobs.outlook import Outlook
from shared.jobs.queries import JobRow

PREFIX = "/api/v1"


def job_view(row: JobRow, outlook: Outlook, public_url: str) -> dict[str, Any]:
    """``schemas.JobView`` of a row of ``queries.VIEW``."""
    url = f"{public_url}{PREFIX}/jobs/{row.id}"
    start = outlook.start
    return {
        "id": row.id,
        "kind": row.kind,
        "model": row.model,
        "priority": row.priority,
        "state": row.state,
        "version": row.version,
        "waiting_reason": outlook.reason,
        "waiting_until": row.waiting_until,
        "queue_position": outlook.position,
        "estimated_start": start and {"p50": start.p50, "p90": start.p90},
        "progress": outlook.progress and outlook.progress._asdict(),
        "attempt": row.attempt,
        "max_attempts": row.max_attempts,
        "timeout": row.timeout_seconds,
        "on_unknown": row.on_unknown,
        "created_at": row.created_at,
        "scheduled_at": row.scheduled_at,
        "started_at": row.started_at,
        "finished_at": row.finished_at,
        "expires_at": row.expires_at,
        "cancel_requested_at": row.cancel_requested_at,
        "provider": row.provider,
        "upstream_model": row.upstream_model,
        "model_version": row.model_version,
        "usage": row.usage,
        "cost_usd": row.cost_usd,
        "error": row.error,
        "warnings": row.warnings,
        "replay_of": row.replay_of,
        "batch_id": row.batch_id,
        "batch_index": row.batch_index,
        "keep_for": row.keep_seconds,
        "stream": row.stream,
        "request_id": row.request_id,
        "tags": row.tags,
        "metadata": row.metadata,
        "status_url": url,
        "result_url": f"{url}/result",
        "cancel_url": f"{url}/cancel",
        "events_url": f"{url}/events",
    }


def dumps(body: Any) -> bytes:
    """JSON with times in UTC and money as decimal strings."""
    return orjson.dumps(body, default=_default, option=orjson.OPT_UTC_Z)


def money(value: Decimal) -> str:
    """A decimal without an exponent and without zeros at its end."""
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _default(value: Any) -> Any:
    if isinstance(value, Decimal):
        return money(value)
    raise TypeError(f"no JSON for {type(value).__name__}")
