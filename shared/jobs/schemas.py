"""What goes over the wire about jobs. Times are RFC 3339 in UTC; costs are decimal strings in USD."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from shared.fields import Moment, each_once, empty
from shared.jobs.fields import Duration, MetadataKey, MetadataValue, Tag, to_come
from shared.jobs.status import OnUnknown, Priority, State, WaitingReason
from shared.kinds.base import Whole
from shared.webhooks.schemas import JobEvents, Url

#: No object that is meant has as many fields.
_MAX_FIELDS = 100


class JobSubmit(BaseModel):
    """A job to run."""

    model_config = ConfigDict(extra="forbid", strict=True)

    kind: Annotated[str, Field(description="What to do, such as `text.generate`; GET /kinds lists them.")]
    model: Annotated[
        str | None, Field(description="An alias from GET /models; left out, the kind's default is taken.")
    ] = None
    input: Annotated[
        dict[str, Any],
        Field(max_length=_MAX_FIELDS, description="The kind's own input; GET /kinds has its JSON Schema."),
    ]
    priority: Annotated[Priority, Field(strict=False)] = Priority.STANDARD
    max_attempts: Annotated[
        Whole | None, Field(ge=1, le=20, description="Calls at most, the first included.")
    ] = None
    timeout: Annotated[
        float | None, Field(ge=1, le=3600, description="Seconds that one attempt may take.")
    ] = None
    on_unknown: Annotated[
        OnUnknown,
        Field(
            strict=False,
            description="What to do when a call's answer was lost and the provider may have billed it: call again, or fail.",
        ),
    ] = OnUnknown.RETRY
    scheduled_at: Annotated[Moment | None, Field(description="Not before this time.")] = None
    expires_at: Annotated[
        Annotated[Moment, AfterValidator(to_come)] | None,
        Field(
            description="Still waiting by then, for its start or for a retry, the job expires; a time to come."
        ),
    ] = None

    keep_for: Annotated[
        Duration | None,
        Field(
            description="How long the job is kept once it is final: seconds, or a duration such as `P7D`; then it is "
            "deleted with its pictures. Left out, as long as the server keeps jobs.",
            examples=["P7D"],
        ),
    ] = None
    stream: Annotated[
        bool,
        Field(
            description="Text jobs only: tell the text on `events_url` as it is made, as events named `delta`. The result "
            "is the same."
        ),
    ] = False
    tags: Annotated[
        list[Tag],
        Field(max_length=16, description="Words of your own, to list jobs by.", examples=[["env:prod"]]),
        AfterValidator(each_once),
    ] = empty(list)
    metadata: Annotated[
        dict[MetadataKey, MetadataValue],
        Field(max_length=16, description="Texts of your own, to list jobs by.", examples=[{"user": "42"}]),
    ] = empty(dict)
    webhook_url: Annotated[
        Url | None,
        Field(
            description="Where webhooks about this job go; POST /webhooks/job-secret makes what signs them."
        ),
    ] = None
    webhook_events: Annotated[
        JobEvents | None,
        Field(description="Which of the job's events are sent there; left out, how it ends."),
    ] = None

    @model_validator(mode="before")
    @classmethod
    def _of_few_fields(cls, value: Any) -> Any:
        # Before each of thousands becomes an error of its own.
        if isinstance(value, dict) and len(value) > _MAX_FIELDS:
            raise PydanticCustomError("too_large", "has more than {limit} fields", {"limit": _MAX_FIELDS})
        return value

    @model_validator(mode="after")
    def _fields_fit(self) -> JobSubmit:
        if self.scheduled_at and self.expires_at and self.expires_at <= self.scheduled_at:
            raise ValueError("expires_at must lie after scheduled_at")
        if self.webhook_events and not self.webhook_url:
            raise ValueError("webhook_events needs a webhook_url")
        return self


class JobProblem(BaseModel):
    """Why the last attempt went wrong."""

    code: str
    message: str
    retryable: bool = False
    provider_status: int | None = None


class JobWarning(BaseModel):
    """Something in the request that had no effect."""

    pointer: str
    code: str
    message: str


class EstimatedStart(BaseModel):
    """When a queued job will probably have started. An estimate, from how long jobs took of late: nothing is promised."""

    p50: Annotated[datetime, Field(description="As likely as not it has started by then.")]
    p90: Annotated[datetime, Field(description="In nine cases of ten it has.")]


class Progress(BaseModel):
    """How far the present attempt of a running job is, and how long those of its model took of late."""

    elapsed: Annotated[float, Field(description="Seconds since it began.")]
    p50: Annotated[float, Field(description="Half of the attempts take no longer, seconds.")]
    p90: Annotated[float, Field(description="Nine in ten take no longer, seconds.")]


class JobView(BaseModel):
    """A job as a client sees it."""

    id: UUID
    kind: str
    model: Annotated[str, Field(description="The alias that was asked for.")]
    priority: Priority
    state: State
    version: Annotated[int, Field(description="Goes up with every change.")]
    waiting_reason: Annotated[WaitingReason | None, Field(description="Why a queued job does not run yet.")]
    waiting_until: Annotated[datetime | None, Field(description="It will not start before this time.")]
    queue_position: Annotated[
        int | None,
        Field(
            description="Place in its queue (one for each kind and priority): 1 is the next. As it was a second or so ago; "
            "null where the job is not queued, or waits for its time or for its model instead, or where it is not known. "
            "100001 stands for all that is beyond."
        ),
    ]
    estimated_start: Annotated[
        EstimatedStart | None,
        Field(
            description="An estimate. Null where nothing can be foretold: no worker, or a model that is limited or paused."
        ),
    ]
    progress: Annotated[Progress | None, Field(description="Of a running job.")]
    attempt: Annotated[int, Field(description="Attempts begun so far.")]
    max_attempts: int
    timeout: float
    on_unknown: OnUnknown
    created_at: datetime
    scheduled_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    expires_at: datetime | None
    cancel_requested_at: datetime | None
    provider: Annotated[str | None, Field(description="Who answered: google, gateway or simulator.")]
    upstream_model: Annotated[str | None, Field(description="The model id that the provider was asked for.")]
    model_version: Annotated[str | None, Field(description="What the provider says served it.")]
    usage: dict[str, int] | None
    cost_usd: Annotated[Decimal, Field(description="Of all attempts; lost answers count with an estimate.")]
    error: JobProblem | None
    warnings: list[JobWarning]
    replay_of: Annotated[UUID | None, Field(description="The job that this one repeats; it may be gone.")]
    batch_id: Annotated[UUID | None, Field(description="The batch that it came with.")]
    batch_index: Annotated[int | None, Field(description="Its place in that batch, from 0.")]
    keep_for: Annotated[
        float | None,
        Field(description="Seconds for which it is kept once it is final; null means for ever."),
    ]
    stream: Annotated[bool, Field(description="Whether `events_url` tells the text as it is made.")]
    request_id: Annotated[
        str | None,
        Field(description="The `X-Request-ID` of the submit; log lines about the job have it, too."),
    ]
    tags: list[str]
    metadata: dict[str, str]
    status_url: Annotated[
        str, Field(description="A path on this server, or a whole address where PUBLIC_URL is set.")
    ]
    result_url: str
    cancel_url: str
    events_url: str


class AttemptView(BaseModel):
    """One claim of a job by a worker."""

    number: int
    worker: str
    claimed_at: datetime
    sent_at: Annotated[
        datetime | None, Field(description="From here on the call may have gone out, and be billed.")
    ]
    answered_at: datetime | None
    finished_at: datetime | None
    outcome: str | None
    counted: Annotated[bool, Field(description="False where it used up none of max_attempts.")]
    error: JobProblem | None
    provider: str | None
    model_version: str | None
    upstream_request_id: str | None
    usage: dict[str, int] | None
    estimated_cost_usd: Annotated[
        Decimal | None,
        Field(description="Worked out before the call; of a text job shown once it has ended."),
    ]
    cost_usd: Decimal


class JobDetail(JobView):
    """A job with its attempts, as ``GET /jobs/{id}?include=attempts`` shows it."""

    attempts: list[AttemptView]


class CancelReceipt(BaseModel):
    """What a cancel found and did."""

    job: JobView
    outcome: Annotated[
        str,
        Field(description="`cancelled`, `cancel_requested` (a worker is being told), or `already_final`."),
    ]
    provider_called: Annotated[
        bool, Field(description="Whether a call had gone out by then, or was just about to.")
    ]
    cost_usd: Annotated[Decimal, Field(description="Known so far, estimates of lost answers included.")]


class JobResult(BaseModel):
    """What a succeeded job made."""

    job_id: UUID
    kind: str
    result: dict[str, Any]
