"""What the API speaks of. Times are aware, in UTC; money is ``Decimal``, in USD; ids are strings (UUIDs).

``raw`` is the JSON as it came, with fields that a newer server may have added.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final, Literal, TypedDict

#: States that a job does not leave.
FINAL: Final = frozenset({"succeeded", "failed", "cancelled", "expired"})

Priority = Literal["interactive", "standard", "batch"]
OnUnknown = Literal["retry", "fail"]


class SubmitOptions(TypedDict, total=False):
    """What a submit may say beyond kind, model and input; left out, the server's defaults hold."""

    priority: Priority
    #: Calls at most, the first included.
    max_attempts: int
    #: Seconds that one attempt may take.
    timeout: float
    on_unknown: OnUnknown
    scheduled_at: datetime
    expires_at: datetime
    #: How long it is kept once it is final: seconds, a timedelta, or a duration such as ``P7D``.
    keep_for: float | str | timedelta
    stream: bool
    tags: Sequence[str]
    metadata: Mapping[str, str]
    #: Where webhooks about the job go, and which of its events are told there; left out, how it ends.
    webhook_url: str
    webhook_events: Sequence[str]


class BatchOptions(TypedDict, total=False):
    """What a batch may say besides its jobs."""

    #: What each job has where it says nothing itself: a submit, or parts of one; also within ``input``.
    defaults: Mapping[str, Any]
    #: Of the jobs that name none; left out, ``batch``: after all others.
    priority: Priority
    #: Of the batch and of each of its jobs.
    tags: Sequence[str]
    metadata: Mapping[str, str]


class JobFilter(TypedDict, total=False):
    """Which jobs; what is left out lets every job through."""

    state: str | Sequence[str]
    kind: str
    model: str
    priority: Priority
    tag: str | Sequence[str]
    metadata: Mapping[str, str]
    #: The id of a batch.
    batch: str
    created_after: datetime
    created_before: datetime
    #: Stands in the prompt; three characters at least.
    q: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobProblem:
    """Why the last attempt went wrong."""

    code: str
    message: str
    retryable: bool = False
    provider_status: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobWarning:
    """Something in the request that had no effect."""

    pointer: str
    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One claim of a job by a worker."""

    number: int
    worker: str
    claimed_at: datetime
    sent_at: datetime | None = None
    answered_at: datetime | None = None
    finished_at: datetime | None = None
    outcome: str | None = None
    counted: bool
    error: JobProblem | None = None
    provider: str | None = None
    model_version: str | None = None
    upstream_request_id: str | None = None
    usage: Mapping[str, int] | None = None
    estimated_cost_usd: Decimal | None = None
    cost_usd: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class EstimatedStart:
    """When a queued job will probably have started."""

    p50: datetime
    p90: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How long a running job's attempt has taken, and how long those of its model take; seconds."""

    elapsed: float
    p50: float
    p90: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job as it was when the answer was made."""

    id: str
    kind: str
    model: str
    priority: str
    state: str
    #: Goes up with every change.
    version: int
    #: Why a queued job does not run yet.
    waiting_reason: str | None = None
    waiting_until: datetime | None = None
    #: Its place in its queue, 1 is the next; None where it is in none, or nobody knows.
    queue_position: int | None = None
    estimated_start: EstimatedStart | None = None
    progress: Progress | None = None
    attempt: int
    max_attempts: int
    timeout: float
    on_unknown: str
    created_at: datetime
    scheduled_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    expires_at: datetime | None = None
    cancel_requested_at: datetime | None = None
    provider: str | None = None
    upstream_model: str | None = None
    model_version: str | None = None
    usage: Mapping[str, int] | None = None
    cost_usd: Decimal
    error: JobProblem | None = None
    warnings: Sequence[JobWarning] = ()
    replay_of: str | None = None
    #: The batch that it came with, and its place there, from 0.
    batch_id: str | None = None
    batch_index: int | None = None
    keep_for: float | None = None
    stream: bool = False
    #: Names the request that submitted it, in the server's logs as well.
    request_id: str | None = None
    tags: Sequence[str] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    #: Only where ``get`` was asked for them.
    attempts: Sequence[Attempt] = ()
    status_url: str
    result_url: str
    cancel_url: str
    events_url: str
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def is_final(self) -> bool:
        return self.state in FINAL

    @property
    def succeeded(self) -> bool:
        return self.state == "succeeded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """A picture that a job made; ``download`` takes it."""

    artifact_id: str
    media_type: str
    width: int
    height: int
    byte_size: int
    #: Of its bytes, in hexadecimal digits.
    sha256: str
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What a job made: text, JSON where a schema was given, pictures."""

    text: str | None = None
    json: Any = None
    finish_reason: str | None = None
    images: Sequence[Image] = ()
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobResult:
    """A succeeded job's result."""

    job_id: str
    kind: str
    result: Output
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """A file that jobs may refer to; ``picture`` takes it. The same bytes, uploaded again, are the same one."""

    id: str
    filename: str | None = None
    media_type: str
    byte_size: int
    sha256: str
    width: int | None = None
    height: int | None = None
    created_at: datetime
    #: It is kept until then, and for as long as a job refers to it.
    expires_at: datetime
    url: str
    content_url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EventJob:
    """The job of an event as it was when the event was sent."""

    kind: str
    model: str
    priority: str
    state: str
    version: int
    attempt: int
    cost_usd: Decimal
    error: JobProblem | None = None
    status_url: str
    result_url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened. Give ``id`` to ``stream`` to go on after it.

    ``job_id``, ``version`` and ``job`` are None where it is about no job, which only a project's stream has:
    ``webhook.disabled``, and what batches tell (``data`` has the ``batch_id``), such as ``batch.completed``.
    """

    id: int
    type: str
    time: datetime
    job_id: str | None = None
    version: int | None = None
    data: Mapping[str, Any]
    job: EventJob | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """A piece of a text as it is made. The pieces of one ``attempt``, put together, are its text.

    A larger attempt than before begins the text anew: what was shown of the one before is void.
    """

    job_id: str
    attempt: int
    #: Characters of the attempt's text before this piece.
    offset: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelReceipt:
    """What a cancel found and did."""

    job: Job
    #: ``cancelled``, ``cancel_requested`` (a worker is being told) or ``already_final``.
    outcome: str
    provider_called: bool
    cost_usd: Decimal
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobsCancelled:
    """What a cancel of many found and did."""

    dry_run: bool
    matched: int
    cancelled: int
    cancel_requested: int
    #: The limit, or the time, was reached first: send it again.
    more: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A batch as it was when the answer was made."""

    id: str
    #: ``running`` until all of its jobs are final, then ``completed``.
    state: str
    created_at: datetime
    cancel_requested_at: datetime | None = None
    completed_at: datetime | None = None
    #: Jobs that were made.
    total: int
    #: Its jobs by state, at most a second old.
    counts: Mapping[str, int] | None = None
    cost_usd: Decimal | None = None
    tags: Sequence[str] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    status_url: str
    jobs_url: str
    results_url: str
    cancel_url: str
    events_url: str
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def is_completed(self) -> bool:
        return self.state == "completed"


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchResult:
    """What became of one job of a batch."""

    #: Its place in the batch, from 0.
    index: int
    id: str
    kind: str
    #: As it was when the line was read.
    state: str
    #: None unless it succeeded.
    output: Output | None = None
    error: JobProblem | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def succeeded(self) -> bool:
        return self.state == "succeeded"


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchCancelled:
    """What a cancel of a batch found and did."""

    batch: Batch
    #: Jobs that ended at once; and those that are running, whose workers are told.
    cancelled: int
    cancel_requested: int
    #: There is more to cancel: the server goes on by itself.
    more: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPage:
    """One page of a list."""

    items: Sequence[Job]
    next_cursor: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCounts:
    """One kind and model of the summary."""

    kind: str
    model: str
    states: Mapping[str, int]
    cost_usd: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueCounts:
    """One queue of the summary."""

    queue: str
    queued: int
    running: int
    oldest_waiting_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CostCounts:
    """Costs: since midnight UTC, and in all."""

    today: Decimal
    total: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Counts and costs of the project's jobs."""

    states: Mapping[str, int]
    models: Sequence[ModelCounts]
    waiting: Mapping[str, int]
    queues: Sequence[QueueCounts]
    cost_usd: CostCounts
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
