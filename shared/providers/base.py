"""What a driver takes, answers and raises; nothing here knows a provider.

ProviderError
├── RetryableError        nothing usable came back and trying again is right
├── RateLimitedError      wait until a time; not counted as an attempt
├── PermanentError        trying again would give the same answer; never retried
└── UnknownOutcomeError   the request went out and the answer was lost: it may have been billed

A driver raises nothing else: no SDK's and no HTTP client's exception leaves it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, ClassVar, Literal, Protocol
from uuid import UUID

from shared.providers.catalog import ModelSpec

#: The name of the provider that is none.
SIMULATOR = "simulator"

#: Why a permanent error is permanent. The API shows it as ``error.code``.
PermanentReason = Literal[
    "invalid_request",
    "unauthenticated",
    "permission_denied",
    "insufficient_credit",
    "model_not_found",
    "safety_blocked",
    "recitation_blocked",
    "no_image",
    "no_text",
    # Of the input's pictures, found out before the provider was called.
    "invalid_image",
    "input_refused",
    "input_unavailable",
]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call, as the provider counted them.

    ``output_tokens`` holds text and image tokens but no thoughts; ``image_tokens`` is the part
    of it that is images. ``cached_tokens`` is the part of ``input_tokens`` read from a cache.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    thought_tokens: int = 0
    image_tokens: int = 0
    cached_tokens: int = 0

    def as_json(self) -> dict[str, int]:
        return {
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "thought_tokens": self.thought_tokens,
            "image_tokens": self.image_tokens,
            "cached_tokens": self.cached_tokens,
        }


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Literal["user", "model"]
    text: str


@dataclass(frozen=True, slots=True)
class TextRequest:
    """A text generation. Fields that are None are left to the provider's default."""

    messages: Sequence[Message]
    system: str | None = None
    #: JSON Schema of the wanted answer; the answer is then JSON.
    response_schema: Mapping[str, Any] | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    stop: Sequence[str] = ()
    thinking_level: str | None = None


@dataclass(frozen=True, slots=True)
class ImageBytes:
    """An encoded picture; ``media_type`` is what the bytes are, whatever they were declared as."""

    data: bytes = field(repr=False)
    media_type: str
    width: int = 0
    height: int = 0


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """An image generation, or an edit where ``input_images`` is not empty."""

    prompt: str
    aspect_ratio: str
    size: str
    seed: int | None = None
    input_images: Sequence[ImageBytes] = ()


GenerationRequest = TextRequest | ImageRequest


#: Takes a piece of a text as it is made. Called on the event loop; it must not block or fail.
OnText = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Call:
    """Everything around a request that a driver needs to make it.

    Attributes:
        model: the catalogue entry; its ``upstream`` is the id that Google knows, its ``alias``
            what a gateway is told.
        timeout: total seconds until the answer must be read in full.
        on_text: wants the text in pieces as it is made, thoughts left out; a driver that does not stream gives it
            none. What ``generate`` returns is the whole text either way.
    """

    job_id: UUID
    attempt: int
    model: ModelSpec
    timeout: float
    on_text: OnText | None = None

    @property
    def request_id(self) -> str:
        """Names this attempt upstream: the ``x-request-id`` and a gateway's ``Idempotency-Key``."""
        return f"{self.job_id}-{self.attempt}"


@dataclass(frozen=True, slots=True)
class Generation:
    """A usable answer.

    Attributes:
        finish_reason: lower case: ``stop``, ``max_tokens`` or the provider's own word.
        model_version: what the provider says served the request; None where it does not say.
        simulated: the answer carries the simulator's mark.
        cost_usd: the provider's own figure, where it gives one; it wins over the catalogue's.
    """

    text: str | None
    images: Sequence[ImageBytes]
    finish_reason: str
    usage: Usage
    model_version: str | None = None
    upstream_request_id: str | None = None
    simulated: bool = False
    cost_usd: Decimal | None = None


class Driver(Protocol):
    """Speaks to one provider. One instance a process and event loop; safe for concurrent calls."""

    #: The provider's name in jobs and attempts, such as ``google``; ``simulator`` where it is configured to answer.
    provider: str
    #: Whether ``Call.on_text`` is given anything.
    streams: bool

    async def generate(self, request: Any, call: Call) -> Generation:
        """Makes exactly one upstream request (and polls for its answer where the form has that).

        Raises:
            ProviderError: one of the four below; never anything else but CancelledError.
        """
        ...

    async def aclose(self) -> None:
        """Closes connections; the driver is not used afterwards."""
        ...


class ProviderError(Exception):
    """Base of what a driver raises.

    Attributes:
        code: stable word, shown to the client as ``error.code``.
        message: the provider's words or ours; never holds a key.
        status: the HTTP status, where there was an answer.
        billed: True where the answer shows that it was paid for (usage came along), None where
            nobody knows.
        simulated: the answer carried the simulator's mark.
    """

    code: ClassVar[str] = "provider_error"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        status: int | None = None,
        upstream_request_id: str | None = None,
        usage: Usage | None = None,
        model_version: str | None = None,
        billed: bool | None = False,
        simulated: bool = False,
    ) -> None:
        super().__init__(message)
        self.error_code = code or self.code
        self.message = message
        self.status = status
        self.upstream_request_id = upstream_request_id
        self.usage = usage
        self.model_version = model_version
        self.billed = billed
        self.simulated = simulated


class RetryableError(ProviderError):
    """500, 502, 503, 504, a connection that was never made, an answer that makes no sense.

    ``code`` is ``provider_unavailable`` or ``malformed_response``; the latter may have been billed.
    """

    code = "provider_unavailable"


class RateLimitedError(ProviderError):
    """429: the model is over a limit. ``delay`` is in seconds; None leaves it to our backoff.

    ``per_minute`` is the limit itself, in calls a minute, where the provider names it.

    ``code`` is ``rate_limited``, ``quota_exhausted`` (per day) or ``spend_limited``.
    """

    code = "rate_limited"

    def __init__(
        self, message: str, *, delay: float | None, per_minute: int | None = None, **rest: Any
    ) -> None:
        super().__init__(message, **rest)
        self.delay = delay
        self.per_minute = per_minute


class PermanentError(ProviderError):
    """400, 402, 403, 404, every block and safety finish, an answer without what was asked for."""

    code = "invalid_request"

    def __init__(self, message: str, *, reason: PermanentReason, **rest: Any) -> None:
        super().__init__(message, code=reason, **rest)


class UnknownOutcomeError(ProviderError):
    """The request went out and its answer was lost: read timeout, total deadline, reset.

    ``code`` is ``timeout`` or ``connection_lost``. The job's ``on_unknown`` policy decides.
    """

    code = "connection_lost"

    def __init__(self, message: str, **rest: Any) -> None:
        super().__init__(message, **{"billed": None, **rest})
