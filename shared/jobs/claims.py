"""Claiming and releasing jobs through the gates of their models.

A model without a gate costs nothing here: one statement claims its jobs. Jobs of a model with one
are let through as its limits allow, under its row lock, and the rest go back to wait without
having used an attempt or a slot.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from enum import Enum
from typing import Any
from uuid import UUID

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.gates import queries as gates
from shared.gates.limits import Admission, Gate, admit
from shared.jobs import queries
from shared.jobs.queries import Executor
from shared.jobs.status import WaitingReason

#: Jobs of one model told to workers in one pass at most.
_RELEASE_AT_MOST = 500


class Left(Enum):
    """Why a claim did not get a job that it may yet get."""

    #: Its model has a gate: ``claim_through_gates``.
    AT_GATE = "at_gate"
    #: Its message came before it did, or its row was locked.
    NOT_YET = "not_yet"


async def claim(
    db: Executor, ids: Sequence[UUID], *, worker: str, lease: float, grace: float, noted: Sequence[str] = ()
) -> tuple[dict[UUID, Row[Any]], dict[UUID, Left] | Exception]:
    """Claims what may run now (see ``queries.claim``), and answers which of the others may be claimed yet.

    Those at gates are for ``claim_through_gates``, in a transaction of its own: this one must wait for nobody. What was
    claimed stays so where nobody can say what became of the others: then the error is answered.
    """
    claimed = await queries.claim(db, ids, worker=worker, lease=lease, grace=grace, noted=noted)
    passed_over = [job_id for job_id in ids if job_id not in claimed]
    if not passed_over:
        return claimed, {}
    try:
        left = await queries.left(db, passed_over)
    except Exception as error:  # noqa: BLE001  handed on
        return claimed, error
    return claimed, {job_id: Left.AT_GATE if at_gate else Left.NOT_YET for job_id, at_gate in left.items()}


async def claim_through_gates(
    db: AsyncConnection,
    ids: Sequence[UUID],
    *,
    worker: str,
    lease: float,
    grace: float,
    noted: Sequence[str] = (),
) -> dict[UUID, Row[Any]]:
    """Claims what its gate lets through, and sends the rest back to wait; ``gated`` in a row says so."""
    held: defaultdict[str, list[UUID]] = defaultdict(list)
    for row in await queries.at_gates(db, ids):
        held[row.model].append(row.id)
    claimed: dict[UUID, Row[Any]] = {}
    for gate in await gates.lock(db, sorted(held)):
        waiting = held[gate.model]
        admission = admit(gate, len(waiting))
        if admission.calls:
            let = waiting[: admission.calls]
            claimed |= await queries.claim(
                db, let, worker=worker, lease=lease, grace=grace, noted=noted, through_gate=True
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
