"""What goes over the wire about events."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, Field


class EventJob(BaseModel):
    """The job of an event as it was when the event was sent, which may be after further changes."""

    kind: str
    model: str
    priority: str
    state: str
    version: int
    attempt: int
    cost_usd: Decimal
    error: dict[str, Any] | None
    status_url: str
    result_url: str


class DeltaView(BaseModel):
    """The `data` of a server-sent event named `delta`: a piece of a text as it is made, of jobs with `stream`."""

    job_id: UUID
    attempt: Annotated[int, Field(description="A larger one than before: the text begins anew.")]
    offset: Annotated[
        int,
        Field(
            description="Characters (Unicode code points) of the attempt's text before this piece, which takes the place "
            "of whatever you have from there on. Larger than what you have: pieces were lost, and come before the end."
        ),
    ]
    text: str


class EventView(BaseModel):
    """The `data` of a server-sent event."""

    id: Annotated[int, Field(description="Larger than that of every event before it; `Last-Event-ID`.")]
    type: Annotated[str, Field(examples=["job.succeeded", "batch.completed"])]
    time: datetime
    job_id: Annotated[
        UUID | None, Field(description="Null where the event is about no job, such as `batch.completed`.")
    ]
    version: Annotated[int | None, Field(description="Numbers the job's events without a gap, from 1.")]
    data: Annotated[dict[str, Any], Field(description="What the type has to say, such as `attempt`.")]
    job: EventJob | None
