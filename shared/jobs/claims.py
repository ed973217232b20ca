"""Claiming and releasing jobs through the gates of their models.

A model without a gate costs nothing here: one statement claims its jobs. Jobs of a model with one
are let through as its limits allow, under its row lock, and the rest go back to wait without
having used an attempt or a slot.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db import Database
from shared.gates import queries as gates
from shared.gates.limits import Admission, Gate, admit
from shared.jobs import queries
from shared.jobs.status import WaitingReason

#: Jobs of one model told to workers in one pass at most.
_RELEASE_AT_MOST = 500


async def claim(
    database: Database, ids: Sequence[UUID], *, worker: str, lease: float, grace: float
) -> dict[UUID, Row[Any]]:
    """Claims what may run now; see ``queries.claim``. ``gated`` in a row says that a gate let it through."""
    claimed = await queries.claim(database.relaxed, ids, worker=worker, lease=lease, grace=grace)
    left = [job_id for job_id in ids if job_id not in claimed]
    if left:
        async with database.transaction() as db:
            claimed |= await _through_gates(db, left, worker=worker, lease=lease, grace=grace)
    return claimed


async def _through_gates(
    db: AsyncConnection, left: Sequence[UUID], *, worker: str, lease: float, grace: float
) -> dict[UUID, Row[Any]]:
    """Claims those that their models' gates let through, and parks the others that wait at a gate."""
    claimed: dict[UUID, Row[Any]] = {}
    held: defaultdict[str, list[UUID]] = defaultdict(list)
    for row in await queries.at_gates(db, left):
        held[row.model].append(row.id)
    for gate in await gates.lock(db, sorted(held)) if held else ():
        waiting = held[gate.model]
        admission = admit(gate, len(waiting))
        if admission.calls:
            let = waiting[: admission.calls]
            claimed |= await queries.claim(
                db, let, worker=worker, lease=lease, grace=grace, through_gate=True
            )
            await gates.take_slots(db, gate.model, admission.next_slot_at)
        await _park(db, gate, admission, waiting[admission.calls :])
    return claimed


async def release(db: AsyncConnection) -> list[tuple[UUID, str]]:
    """Takes as many due jobs of each model with a gate as it would let through now: id and queue of each."""
    due: list[tuple[UUID, str]] = []
    for gate in await gates.lock(db):
        calls = admit(gate, _RELEASE_AT_MOST).calls - await queries.published(db, gate.model)
        if calls > 0:
            due += await queries.release(db, gate.model, limit=calls)
    return due


async def _park(db: AsyncConnection, gate: Gate, admission: Admission, ids: Sequence[UUID]) -> None:
    if not ids:
        return
    held_by_provider = gate.allowance is not None or admission.opens_at == gate.paused_until
    reason = gate.reason if held_by_provider else WaitingReason.RATE_LIMITED
    await queries.park(db, ids, until=admission.opens_at, reason=reason)
