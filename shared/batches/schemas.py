"""What goes over the wire about batches."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from shared.jobs.fields import MetadataKey, MetadataValue, Tag
from shared.jobs.schemas import JobProblem, JobSubmit
from shared.jobs.status import Priority, State

#: Jobs in a batch at most.
MAX_JOBS = 10_000


class BatchState(StrEnum):
    #: Some of its jobs are not final.
    RUNNING = "running"
    #: All of its jobs are final.
    COMPLETED = "completed"


def _known(fields: dict[str, Any]) -> dict[str, Any]:
    unknown = fields.keys() - JobSubmit.model_fields.keys()
    if unknown:
        raise ValueError(f"may have: {', '.join(JobSubmit.model_fields)}")
    return fields


class BatchOptions(BaseModel):
    """What a batch says besides its jobs."""

    model_config = ConfigDict(extra="forbid", strict=True)

    defaults: Annotated[
        dict[str, Any],
        AfterValidator(_known),
        Field(
            description="What each job has where it says nothing itself: a submit, or parts of one; also within `input`. "
            "Null in a job takes a default away.",
            examples=[{"kind": "text.generate", "model": "gemini-flash"}],
        ),
    ] = {}
    priority: Annotated[
        Priority | None,
        Field(strict=False, description="Of the jobs that name none; left out, `batch`: after all others."),
    ] = None
    tags: Annotated[
        list[Tag], Field(max_length=16, description="Of the batch, and of each job besides its own.")
    ] = []
    metadata: Annotated[
        dict[MetadataKey, MetadataValue],
        Field(max_length=16, description="Of the batch, and of each job where it has no such key itself."),
    ] = {}


class BatchSubmit(BatchOptions):
    """Many jobs at once."""

    jobs: Annotated[
        list[JobSubmit],
        Field(min_length=1, max_length=MAX_JOBS, description="In the order in which results come."),
    ]


class BatchView(BaseModel):
    """A batch as a client sees it."""

    id: UUID
    state: BatchState
    created_at: datetime
    cancel_requested_at: datetime | None
    completed_at: Annotated[datetime | None, Field(description="When all of its jobs were seen to be final.")]
    total: Annotated[int, Field(description="Jobs that were made.")]
    counts: Annotated[
        dict[State, int] | None,
        Field(
            description="Its jobs by state, at most a second old; once it is completed, as they ended. Jobs that were deleted "
            "before are in `total` alone. Null in lists while it runs."
        ),
    ]
    cost_usd: Annotated[Decimal | None, Field(description="Of all its jobs so far; null where `counts` is.")]
    tags: list[str]
    metadata: dict[str, str]
    status_url: str
    jobs_url: Annotated[str, Field(description="The list of its jobs.")]
    results_url: str
    cancel_url: str
    events_url: str


class BatchPage(BaseModel):
    """Batches, newest first."""

    items: list[BatchView]
    next_cursor: Annotated[
        str | None, Field(description="Give it as `cursor` for the next page; null on the last.")
    ]


class BatchQuery(BaseModel):
    """The query of the list."""

    model_config = ConfigDict(extra="forbid")

    state: Annotated[BatchState | None, Field(description="In this state.")] = None
    cursor: Annotated[str | None, Field(max_length=200, description="`next_cursor` of the page before.")] = (
        None
    )
    limit: Annotated[int, Field(ge=1, le=200, description="Batches on a page.")] = 50


class ResultsQuery(BaseModel):
    """Where to begin."""

    model_config = ConfigDict(extra="forbid")

    after: Annotated[
        int | None,
        Field(ge=0, le=MAX_JOBS, description="Go on after the line with this `index`."),
    ] = None


class ResultLine(BaseModel):
    """One line of a batch's results."""

    index: Annotated[int, Field(description="The job's place in the batch, from 0.")]
    id: UUID
    kind: str
    state: Annotated[State, Field(description="As it was when the line was read.")]
    output: Annotated[dict[str, Any] | None, Field(description="The result; null unless it succeeded.")]
    error: Annotated[JobProblem | None, Field(description="Why it failed, or its last attempt did.")]
    metadata: dict[str, str]


class BatchCancelled(BaseModel):
    """What a cancel of a batch found and did."""

    batch: BatchView
    cancelled: Annotated[int, Field(description="Jobs that ended at once.")]
    cancel_requested: Annotated[int, Field(description="Jobs that are running; their workers are told.")]
    more: Annotated[bool, Field(description="There is more to cancel: it goes on by itself.")]
