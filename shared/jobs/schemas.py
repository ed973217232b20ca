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
    """Jobs, newest first."""

    items: list[JobView]
    next_cursor: Annotated[
        str | None, Field(description="Give it as `cursor` for the next page; null on the last.")
    ]


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
