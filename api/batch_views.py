"""Batches as they go over the wire."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row

from api import render
from shared.batches.schemas import BatchState
from shared.batches.service import Batch


def batch_view(batch: Batch, public_url: str) -> dict[str, Any]:
    """``shared.batches.schemas.BatchView``."""
    row, url = batch.row, f"{public_url}{render.PREFIX}/batches/{batch.row.id}"
    return {
        "id": row.id,
        "state": batch.state,
        "created_at": row.created_at,
        "cancel_requested_at": row.cancel_requested_at,
        "completed_at": row.completed_at,
        "total": row.total,
        "counts": batch.counts,
        "cost_usd": batch.cost_usd,
        "tags": row.tags,
        "metadata": row.metadata,
        "status_url": url,
        "jobs_url": f"{public_url}{render.PREFIX}/jobs?batch={row.id}",
        "results_url": f"{url}/results",
        "cancel_url": f"{url}/cancel",
        "events_url": f"{url}/events",
    }


def retry_after(batch: Batch) -> dict[str, str]:
    """How long to wait before the next poll, in seconds; nothing once the batch is completed."""
    return {} if batch.state is BatchState.COMPLETED else {"Retry-After": "1"}


def result_lines(rows: Sequence[Row[Any]], public_url: str) -> bytes:
    """``shared.batches.schemas.ResultLine`` of each row, as JSONL."""
    return b"".join(render.dumps(_result_line(row, public_url)) + b"\n" for row in rows)


def _result_line(row: Row[Any], public_url: str) -> dict[str, Any]:
    return {
        "index": row.batch_index,
        "id": row.id,
        "kind": row.kind,
        "state": row.state,
        "output": None if row.result is None else render.result_view(row, public_url),
        "error": row.error,
        "metadata": row.metadata,
    }
