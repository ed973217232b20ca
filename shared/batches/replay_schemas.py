"""What goes over the wire about running many jobs again."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, model_validator

from shared.batches.schemas import MAX_JOBS, BatchView
from shared.jobs.list_schemas import JobFilter
from shared.jobs.schemas import JobView
from shared.kinds.base import Whole


class JobsReplay(BaseModel):
    """Which jobs to run again, and how."""

    model_config = ConfigDict(extra="forbid")

    filter: Annotated[
        JobFilter, Field(description="At least one condition; jobs that are not final never match.")
    ]
    changes: Annotated[
        dict[str, Any],
        Field(
            description="What is different: a `JobReplay`, for each of them.",
            examples=[{"priority": "batch"}],
        ),
    ] = {}
    dry_run: Annotated[bool, Field(strict=True, description="Only count, check and show.")] = False
    limit: Annotated[Whole, Field(ge=1, le=MAX_JOBS, description="Jobs at most.")] = 1000
    cursor: Annotated[
        str | None, Field(max_length=200, description="`next_cursor` of the answer before, to go on there.")
    ] = None

    @model_validator(mode="after")
    def _means_something(self) -> JobsReplay:
        if not self.filter.model_dump(exclude_defaults=True):
            raise ValueError("filter must have a condition, such as state: [failed]")
        return self


class SkippedJob(BaseModel):
    """A job that cannot be run again like this."""

    job_id: UUID
    code: str
    message: str


class JobsReplayed(BaseModel):
    """What a replay of many jobs found and made."""

    dry_run: bool
    matched: Annotated[
        int, Field(description="Final jobs that the filter lets through, as far as was looked.")
    ]
    skipped: Annotated[int, Field(description="Those of them that cannot be run again like this.")]
    problems: Annotated[list[SkippedJob], Field(description="Why; of the first fifty of them.")]
    sample: Annotated[list[JobView], Field(description="The first five that matched.")]
    batch: Annotated[
        BatchView | None,
        Field(description="The new jobs, each with its `replay_of`; null where nothing was made."),
    ]
    next_cursor: Annotated[
        str | None,
        Field(
            description="There is more, beyond the limit or what one request may take: go on with it as `cursor`."
        ),
    ]
