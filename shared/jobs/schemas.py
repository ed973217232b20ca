"""What goes over the wire about jobs. Times are RFC 3339 in UTC; costs are decimal strings in USD."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from shared.jobs.status import OnUnknown, Priority, State, WaitingReason
from shared.kinds.base import Whole

_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)?", re.ASCII)
#: No object that is meant has as many fields.
_MAX_FIELDS = 100


def _plausible(moment: datetime) -> datetime:
    """PostgreSQL knows years that Python does not, so what lies at the edge would not come back."""
    if not 2000 <= moment.year <= 2200:
        raise ValueError("must lie between the years 2000 and 2200")
    return moment


def _rfc3339(value: Any) -> Any:
    """A number would be taken for seconds since 1970, and a day for its midnight."""
    if not isinstance(value, str) or not _RFC3339.fullmatch(value):
        raise ValueError("must be a time as in RFC 3339, such as 2030-01-31T12:00:00Z")
    return value


def _to_come(moment: datetime) -> datetime:
    now = datetime.now(UTC)
    if moment <= now:
        raise PydanticCustomError(
            "in_the_past", "has passed: it is {now} here", {"now": f"{now:%Y-%m-%dT%H:%M:%SZ}"}
        )
    return moment


_DURATION = re.compile(
    r"P(?=\d|T\d)(?:(\d{1,9})W)?(?:(\d{1,9})D)?(?:T(?=\d)(?:(\d{1,9})H)?(?:(\d{1,9})M)?(?:(\d{1,9})S)?)?",
    re.ASCII,
)
#: Seconds in a week, a day, an hour, a minute, a second.
_UNITS = (604_800, 86_400, 3600, 60, 1)
_SHORTEST_KEEP, _LONGEST_KEEP = 60, 3650 * 24 * 3600


def _seconds(value: Any) -> Any:
    """Years and months are refused: they have no length."""
    if not isinstance(value, str):
        return value
    found = _DURATION.fullmatch(value)
    if found is None:
        raise ValueError(
            "must be seconds, or a duration as in ISO 8601 of weeks to seconds, such as P7D or PT12H"
        )
    return sum(int(number or 0) * unit for number, unit in zip(found.groups(), _UNITS, strict=True))


Duration = Annotated[
    float,
    BeforeValidator(_seconds),
    Field(ge=_SHORTEST_KEEP, le=_LONGEST_KEEP),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "minimum": _SHORTEST_KEEP, "maximum": _LONGEST_KEEP},
                {"type": "string", "format": "duration"},
            ]
        }
    ),
]


def _storable(value: str) -> str:
    if "\0" in value:
        raise PydanticCustomError("null_character", "holds the character U+0000, which cannot be stored")
    return value


def _each_once(tags: list[str]) -> list[str]:
    return list(dict.fromkeys(tags))


#: What stands between the parts of a name: `env:prod`, `team/a`, `2030-01`.
_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.:/@+-]*$"
Tag = Annotated[str, Field(min_length=1, max_length=64, pattern=_NAME)]
MetadataKey = Annotated[str, Field(min_length=1, max_length=64, pattern=_NAME)]
MetadataValue = Annotated[str, Field(max_length=256), AfterValidator(_storable)]

Moment = Annotated[AwareDatetime, Field(strict=False), AfterValidator(_plausible), BeforeValidator(_rfc3339)]


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
        Annotated[Moment, AfterValidator(_to_come)] | None,
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
    tags: Annotated[
        list[Tag],
        Field(max_length=16, description="Words of your own, to list jobs by.", examples=[["env:prod"]]),
        AfterValidator(_each_once),
    ] = []
    metadata: Annotated[
        dict[MetadataKey, MetadataValue],
        Field(max_length=16, description="Texts of your own, to list jobs by.", examples=[{"user": "42"}]),
    ] = {}

    @model_validator(mode="before")
    @classmethod
    def _of_few_fields(cls, value: Any) -> Any:
        # Before each of thousands becomes an error of its own.
        if isinstance(value, dict) and len(value) > _MAX_FIELDS:
            raise PydanticCustomError("too_large", "has more than {limit} fields", {"limit": _MAX_FIELDS})
        return value

    @model_validator(mode="after")
    def _expires_after_its_start(self) -> JobSubmit:
        if self.scheduled_at and self.expires_at and self.expires_at <= self.scheduled_at:
            raise ValueError("expires_at must lie after scheduled_at")
        return self


def _split(value: Any) -> Any:
    """``state=queued&state=running`` and ``state=queued,running`` are the same."""
    if isinstance(value, list):
        return [word for part in value if isinstance(part, str) for word in part.split(",") if word]
    return value


def _pair(value: str) -> str:
    key, equals, _ = value.partition("=")
    if not key or not equals:
        raise PydanticCustomError("not_a_pair", "must be key=value")
    return value


class JobFilter(BaseModel):
    """Which jobs of the project; what is left out lets every job through."""

    model_config = ConfigDict(extra="forbid")

    state: Annotated[
        list[State],
        BeforeValidator(_split),
        Field(max_length=20, description="In one of these states; may be repeated."),
    ] = []
    kind: Annotated[str | None, Field(description="Of this kind.", examples=["text.generate"])] = None
    model: Annotated[
        str | None, Field(description="That asked for this alias.", examples=["gemini-flash"])
    ] = None
    priority: Annotated[Priority | None, Field(description="With this priority.")] = None
    tag: Annotated[
        list[Annotated[str, Field(max_length=64), AfterValidator(_storable)]],
        Field(max_length=16, description="With this tag; repeated, with all of them."),
    ] = []
    metadata: Annotated[
        list[Annotated[str, Field(max_length=321), AfterValidator(_storable), AfterValidator(_pair)]],
        Field(
            max_length=16,
            description="With this pair, as `key=value`; repeated, with all of them.",
            examples=[["user=42"]],
        ),
    ] = []
    created_after: Annotated[Moment | None, Field(description="Created at this time or later.")] = None
    created_before: Annotated[Moment | None, Field(description="Created before this time.")] = None
    q: Annotated[
        Annotated[str, AfterValidator(_storable)] | None,
        Field(
            min_length=3,
            max_length=200,
            description="Stands in the first 2,000 characters of the prompt, in capitals or not.",
        ),
    ] = None


class JobQuery(JobFilter):
    """The query of the list."""

    cursor: Annotated[str | None, Field(max_length=200, description="`next_cursor` of the page before.")] = (
        None
    )
    limit: Annotated[int, Field(ge=1, le=200, description="Jobs on a page.")] = 50


class SummaryQuery(BaseModel):
    """Which endings the summary counts."""

    model_config = ConfigDict(extra="forbid")

    finished_after: Annotated[
        Moment | None, Field(description="Count final jobs from the hour of this time (UTC) on.")
    ] = None
    finished_before: Annotated[
        Moment | None, Field(description="Count final jobs of the hours that begin before this time.")
    ] = None


class JobsCancel(BaseModel):
    """Which jobs to cancel."""

    model_config = ConfigDict(extra="forbid")

    filter: Annotated[JobFilter, Field(description="At least one condition; final jobs never match.")]
    dry_run: Annotated[bool, Field(strict=True, description="Only count.")] = False
    limit: Annotated[Whole, Field(ge=1, le=10_000, description="Jobs at most.")] = 1000

    @model_validator(mode="after")
    def _means_something(self) -> JobsCancel:
        if not self.filter.model_fields_set:
            raise ValueError("filter must have a condition; for all jobs say state: [queued, running]")
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


class JobView(BaseModel):
    """A job as a client sees it."""

    id: UUID
    kind: str
    model: Annotated[str, Field(description="The alias that was asked for.")]
    priority: Priority
    state: State
    version: Annotated[int, Field(description="Goes up with every change.")]
    waiting_reason: Annotated[WaitingReason | None, Field(description="Why a queued job does not run yet.")]
    waiting_until: datetime | None
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
    keep_for: Annotated[
        float | None,
        Field(description="Seconds for which it is kept once it is final; null means for ever."),
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
    sent_at: Annotated[datetime | None, Field(description="From here on the provider may bill the call.")]
    answered_at: datetime | None
    finished_at: datetime | None
    outcome: str | None
    counted: Annotated[bool, Field(description="False where it used up none of max_attempts.")]
    error: JobProblem | None
    provider: str | None
    model_version: str | None
    upstream_request_id: str | None
    usage: dict[str, int] | None
    estimated_cost_usd: Decimal | None
    cost_usd: Decimal


class JobDetail(JobView):
    """A job with its attempts, as ``GET /jobs/{id}?include=attempts`` shows it."""

    attempts: list[AttemptView]


class JobPage(BaseModel):
    """Jobs, newest first; perhaps fewer than asked for, or none, although there is a next page."""

    items: list[JobView]
    next_cursor: Annotated[
        str | None, Field(description="Give it as `cursor` for the next page; null on the last.")
    ]


class JobsCancelled(BaseModel):
    """What a cancel of many jobs found and did."""

    dry_run: bool
    matched: Annotated[int, Field(description="Queued and running jobs that the filter lets through.")]
    cancelled: Annotated[int, Field(description="Ended at once.")]
    cancel_requested: Annotated[int, Field(description="Are running; their workers are being told.")]
    more: Annotated[bool, Field(description="The limit, or the time, was reached first: send it again.")]


class ModelCounts(BaseModel):
    """One kind and model of the summary."""

    kind: str
    model: str
    states: dict[State, int]
    cost_usd: Decimal


class QueueCounts(BaseModel):
    """One queue of the summary."""

    queue: str
    queued: int
    running: int
    oldest_waiting_seconds: Annotated[
        float | None, Field(description="Since the job that has waited longest could have started.")
    ]


class CostCounts(BaseModel):
    """Of finished jobs by the time of their end, and of what is under way."""

    today: Annotated[Decimal, Field(description="Since midnight, UTC.")]
    total: Decimal


class JobsSummary(BaseModel):
    """Counts and costs of a project's jobs. Jobs that were deleted since still count."""

    states: dict[State, int]
    models: list[ModelCounts]
    waiting: Annotated[dict[WaitingReason, int], Field(description="Queued jobs by why they wait.")]
    queues: list[QueueCounts]
    cost_usd: CostCounts


class CancelReceipt(BaseModel):
    """What a cancel found and did."""

    job: JobView
    outcome: Annotated[
        str,
        Field(description="`cancelled`, `cancel_requested` (a worker is being told), or `already_final`."),
    ]
    provider_called: Annotated[bool, Field(description="Whether a provider had been called by then.")]
    cost_usd: Annotated[Decimal, Field(description="Known so far, estimates of lost answers included.")]


class JobResult(BaseModel):
    """What a succeeded job made."""

    job_id: UUID
    kind: str
    result: dict[str, Any]
