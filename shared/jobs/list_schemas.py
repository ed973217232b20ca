"""What goes over the wire about many jobs: filters, pages, counts."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from shared.fields import Moment, storable
from shared.jobs.schemas import JobView
from shared.jobs.status import Priority, State, WaitingReason
from shared.kinds.base import Whole


def _split(value: Any) -> Any:
    """``state=queued&state=running`` and ``state=queued,running`` are the same."""
    if isinstance(value, list):
        # What is no text is left for the enumeration to refuse: without it, there would be no filter.
        words = [part.split(",") if isinstance(part, str) else [part] for part in value]
        return [word for split in words for word in split if word != ""]
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
        list[Annotated[str, Field(max_length=64), AfterValidator(storable)]],
        Field(max_length=16, description="With this tag; repeated, with all of them."),
    ] = []
    metadata: Annotated[
        list[
            Annotated[
                str,
                Field(max_length=321, json_schema_extra={"pattern": "^[^=]+="}),
                AfterValidator(storable),
                AfterValidator(_pair),
            ]
        ],
        Field(
            max_length=16,
            description="With this pair, as `key=value`; repeated, with all of them.",
            examples=[["user=42"]],
        ),
    ] = []
    batch: Annotated[UUID | None, Field(description="Of this batch.")] = None
    created_after: Annotated[Moment | None, Field(description="Created at this time or later.")] = None
    created_before: Annotated[Moment | None, Field(description="Created before this time.")] = None
    q: Annotated[
        Annotated[str, AfterValidator(storable)] | None,
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
    batch: Annotated[UUID | None, Field(description="Count jobs of this batch alone.")] = None


class JobsCancel(BaseModel):
    """Which jobs to cancel."""

    model_config = ConfigDict(extra="forbid")

    filter: Annotated[JobFilter, Field(description="At least one condition; final jobs never match.")]
    dry_run: Annotated[bool, Field(strict=True, description="Only count.")] = False
    limit: Annotated[Whole, Field(ge=1, le=10_000, description="Jobs at most.")] = 1000

    @model_validator(mode="after")
    def _means_something(self) -> JobsCancel:
        if not self.filter.model_dump(exclude_defaults=True):
            raise ValueError("filter must have a condition; for all jobs say state: [queued, running]")
        return self


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
