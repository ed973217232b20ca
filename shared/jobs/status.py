"""The state machine, pure: which states there are and which may follow which.

    submit ─► queued ──claim──► running ──► succeeded | failed | cancelled
                ▲  └─► cancelled | expired     │
                └──── retry / rescue ──────────┘

The database enforces the same words in CHECK constraints; every transition is one guarded
statement in ``queries.py``.
"""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    #: Waits for a worker, for ``scheduled_at``, or for the end of a pause.
    QUEUED = "queued"
    #: A worker holds the lease and is calling, or about to call, the provider.
    RUNNING = "running"
    #: The result is stored.
    SUCCEEDED = "succeeded"
    #: A permanent error, or the last attempt went wrong; ``error`` says how.
    FAILED = "failed"
    #: The client called it off.
    CANCELLED = "cancelled"
    #: It still waited, for its start or for a retry, at ``expires_at``.
    EXPIRED = "expired"


FINAL = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED, State.EXPIRED})

TRANSITIONS: dict[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.RUNNING, State.CANCELLED, State.EXPIRED}),
    State.RUNNING: frozenset({State.QUEUED, State.SUCCEEDED, State.FAILED, State.CANCELLED}),
    State.SUCCEEDED: frozenset(),
    State.FAILED: frozenset(),
    State.CANCELLED: frozenset(),
    State.EXPIRED: frozenset(),
}


class Outcome(StrEnum):
    """How an attempt ended."""

    SUCCEEDED = "succeeded"
    #: The provider answered with an error, or could not be reached.
    FAILED = "failed"
    #: Cut short because the job was cancelled.
    CANCELLED = "cancelled"
    #: The worker was lost before the provider was called: nothing was billed.
    LOST = "lost"
    #: The provider was called and its answer never arrived here: it may have been billed.
    UNKNOWN = "unknown"


class WaitingReason(StrEnum):
    """Why a queued job does not run yet."""

    #: ``scheduled_at`` lies ahead.
    SCHEDULED = "scheduled"
    #: An attempt went wrong; the next one waits for its time.
    RETRY_BACKOFF = "retry_backoff"
    #: The provider asked to wait.
    RATE_LIMITED = "rate_limited"
    #: The provider is down.
    PROVIDER_UNAVAILABLE = "provider_unavailable"
    #: The project is at a limit of its own.
    PROJECT_LIMIT = "project_limit"
    #: Workers are there and busy with what came before.
    IN_QUEUE = "in_queue"
    #: No live worker takes jobs from this queue.
    NO_WORKERS = "no_workers"


class Priority(StrEnum):
    """Which queue of its kind a job waits in; workers take from them in this order."""

    INTERACTIVE = "interactive"
    STANDARD = "standard"
    BATCH = "batch"


class OnUnknown(StrEnum):
    """What to do when a call's outcome is unknown, and trying again may pay twice."""

    RETRY = "retry"
    FAIL = "fail"
