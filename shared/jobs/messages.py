"""What webhooks say."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, Field

from shared.events.types import EventType
from shared.jobs.schemas import JobView
from shared.webhooks.schemas import TEST


class NoticeView(BaseModel):
    """About an endpoint that was disabled."""

    webhook_id: UUID
    reason: Annotated[str, Field(description="`gone` (it answered 410) or `failing` (for days).")]
    description: str
    failing_since: datetime | None


class WebhookMessage(BaseModel):
    """The body of a webhook."""

    type: Annotated[str, Field(examples=[*EventType, TEST])]
    timestamp: Annotated[datetime, Field(description="When it happened.")]
    data: Annotated[
        JobView | NoticeView | dict[str, Any],
        Field(
            description="With a type of a job: the job as it was when the message was made, which may be after further events."
        ),
    ]
