"""What goes over the wire about webhooks. Times are RFC 3339 in UTC, durations seconds unless they say otherwise."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from shared.addresses import MAX_URL_CHARS
from shared.events.types import ENDINGS, OF_JOBS, EventType
from shared.fields import Moment, each_once, storable

#: What a ping is called. No event: it tells of nothing.
TEST = "webhook.test"
_DAY = 86_400


Url = Annotated[
    str,
    Field(
        min_length=1,
        max_length=MAX_URL_CHARS,
        description="An https:// address on the public internet, without a user name or password.",
        examples=["https://example.com/plantain"],
    ),
    AfterValidator(storable),
]
Description = Annotated[
    str,
    Field(max_length=256, description="For you, to know it by."),
    AfterValidator(storable),
]
_Event = Annotated[EventType, Field(strict=False)]
Events = Annotated[
    list[_Event],
    Field(min_length=1, max_length=50, description="Which events are sent; left out, how jobs end."),
    AfterValidator(each_once),
]


def _of_jobs(events: list[EventType]) -> list[EventType]:
    for event in events:
        if event not in OF_JOBS:
            raise PydanticCustomError(
                "not_allowed", "{event} is no event of a job", {"event": event, "expected": _quoted(OF_JOBS)}
            )
    return events


def _quoted(words: tuple[EventType, ...]) -> str:
    return ", ".join(f"'{word}'" for word in words)


JobEvents = Annotated[Events, AfterValidator(_of_jobs)]


class WebhookCreate(BaseModel):
    """An endpoint to make."""

    model_config = ConfigDict(extra="forbid", strict=True)

    url: Url
    events: Events = list(ENDINGS)
    description: Description = ""
    paused: Annotated[bool, Field(description="Deliveries are made and wait until it is false.")] = False


class WebhookUpdate(BaseModel):
    """What changes; what is left out stays."""

    model_config = ConfigDict(extra="forbid", strict=True)

    url: Url | None = None
    events: Events | None = None
    description: Description | None = None
    paused: Annotated[
        bool | None,
        Field(
            description="true: deliveries wait. false: they are sent, and one that was disabled is enabled."
        ),
    ] = None


class SecretRotate(BaseModel):
    """How a new secret takes the old one's place."""

    model_config = ConfigDict(extra="forbid", strict=True)

    overlap: Annotated[
        float,
        Field(
            ge=0, le=7 * _DAY, description="Seconds for which the old secret signs, too. 0: it is forgotten."
        ),
    ] = _DAY


class WebhookView(BaseModel):
    """An endpoint."""

    id: UUID
    url: str
    events: list[EventType]
    description: str
    paused: bool
    created_at: datetime
    updated_at: datetime
    disabled_at: Annotated[
        datetime | None, Field(description="Since when it gets nothing; `paused: false` enables it again.")
    ]
    disabled_reason: Annotated[
        str | None, Field(description="`gone` (it answered 410) or `failing` (for days).")
    ]
    failing_since: Annotated[
        datetime | None, Field(description="The first failure since anything was delivered.")
    ]
    secret_created_at: datetime
    previous_secret_until: Annotated[
        datetime | None, Field(description="Until when the secret before it signs, too.")
    ]


class WebhookCreated(WebhookView):
    """An endpoint that was just made."""

    secret: Annotated[
        str, Field(description="Signs all that is sent there. Shown this once.", examples=["whsec_…"])
    ]


class SecretView(BaseModel):
    """Which secret signs."""

    secret_created_at: datetime | None
    previous_secret_until: datetime | None


class SecretCreated(SecretView):
    """A new secret."""

    secret: Annotated[str, Field(description="Shown this once.", examples=["whsec_…"])]


class WebhookList(BaseModel):
    """All endpoints of the project, the oldest first."""

    items: list[WebhookView]


class DeliveryState(StrEnum):
    #: Is sent, or will be.
    PENDING = "pending"
    #: Was answered with 2xx.
    DELIVERED = "delivered"
    #: Was tried for the last time, or its endpoint was disabled.
    FAILED = "failed"


class DeliveryView(BaseModel):
    """One message to one address."""

    id: Annotated[UUID, Field(description="The message's `webhook-id`, the same in every attempt.")]
    webhook_id: Annotated[UUID | None, Field(description="The endpoint; null: the job's own `webhook_url`.")]
    job_id: UUID | None
    type: str
    url: str
    state: DeliveryState
    attempt: Annotated[int, Field(description="Sendings begun so far.")]
    created_at: datetime
    next_attempt_at: Annotated[
        datetime | None, Field(description="While it is being sent: when another may be made.")
    ]
    finished_at: datetime | None
    last_status: int | None
    last_error: str | None


class DeliveryAttempt(BaseModel):
    """One sending."""

    number: int
    started_at: datetime
    duration_ms: Annotated[
        float | None, Field(description="null: it is under way, or the process that sent it was lost.")
    ]
    status: Annotated[int | None, Field(description="What was answered; null: nothing was.")]
    answer: Annotated[str | None, Field(description="The first bytes of the answer's body, as text.")]
    error: str | None


class DeliveryDetail(DeliveryView):
    """A delivery with what is sent and what came of it."""

    body: dict[str, Any]
    attempts: list[DeliveryAttempt]


class DeliveryPage(BaseModel):
    """Deliveries, newest first."""

    items: list[DeliveryView]
    next_cursor: Annotated[
        str | None, Field(description="Give it as `cursor` for the next page; null on the last.")
    ]


class DeliveryQuery(BaseModel):
    """Which deliveries; what is left out lets every one through."""

    model_config = ConfigDict(extra="forbid")

    webhook_id: Annotated[UUID | None, Field(description="To this endpoint.")] = None
    job_id: Annotated[UUID | None, Field(description="Of this job.")] = None
    state: Annotated[DeliveryState | None, Field(description="In this state.")] = None
    created_after: Annotated[Moment | None, Field(description="Made at this time or later.")] = None
    created_before: Annotated[Moment | None, Field(description="Made before this time.")] = None
    cursor: Annotated[UUID | None, Field(description="`next_cursor` of the page before.")] = None
    limit: Annotated[int, Field(ge=1, le=200, description="Deliveries on a page.")] = 50


class Redeliver(BaseModel):
    """Which deliveries of an endpoint to send once more."""

    model_config = ConfigDict(extra="forbid", strict=True)

    created_after: Annotated[Moment, Field(description="Made at this time or later.")]
    created_before: Annotated[
        Moment | None, Field(description="Made before this time; left out, all since.")
    ] = None
    state: Annotated[
        Literal["failed", "delivered", "any"], Field(description="Which of them; `any`: both.")
    ] = "failed"
    cursor: Annotated[
        UUID | None, Field(strict=False, description="`next_cursor` of the request before.")
    ] = None


class Redelivered(BaseModel):
    """What is sent once more."""

    redelivered: int
    next_cursor: Annotated[
        str | None,
        Field(
            description="There may be more than one request takes: send it again with this as `cursor`. Null: that was all."
        ),
    ]
