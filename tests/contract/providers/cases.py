"""Every driver as a case of one contract, how to ask it, and every way in which its calls fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID, uuid4

from shared.config import Settings
from shared.providers.base import (
    Call,
    Driver,
    Generation,
    GenerationRequest,
    ImageRequest,
    Message,
    PermanentError,
    ProviderError,
    RateLimitedError,
    RetryableError,
    TextRequest,
    UnknownOutcomeError,
)
from shared.providers.catalog import ModelSpec, catalog


@dataclass(frozen=True)
class Case:
    """One driver under the contract.

    Attributes:
        form: the wire form that it speaks, ``google`` or ``gateway``: faults differ by it.
        directive: put into every prompt, to have the simulator take this path.
        aborts: whether cancelling a call ends it upstream.
        streamed: the text is wanted as it is made.
    """

    name: str
    model: str
    form: str
    settings: dict[str, Any] = field(default_factory=dict)
    directive: str = ""
    aborts: bool = True
    streamed: bool = False

    @property
    def makes_images(self) -> bool:
        return self.spec.image is not None

    @property
    def spec(self) -> ModelSpec:
        return catalog()[self.model]

    def request(self, prompt: str) -> GenerationRequest:
        text = f"{prompt} {self.directive}".strip()
        if self.makes_images:
            return ImageRequest(prompt=text, aspect_ratio="16:9", size="1K")
        return TextRequest(messages=[Message("user", text)])


CASES = [
    Case("gemini", "gemini-flash", "google"),
    Case("gemini-legacy", "gemini-flash", "google", {"gemini_sdk": "google-generativeai"}, aborts=False),
    Case("nano-banana-google", "nano-banana", "google"),
    Case("gateway-200", "nano-banana", "gateway", {"nano_banana_api": "gateway"}, "[[sim:gateway=sync]]"),
    Case(
        "gateway-202",
        "nano-banana",
        "gateway",
        {"nano_banana_api": "gateway"},
        "[[sim:gateway=poll]]",
        aborts=False,
    ),
    Case("gemini-streamed", "gemini-flash", "google", streamed=True),
]


def settings_for(url: str | None, **changes: Any) -> Settings:
    """Settings of a test: only a simulator, unless the test says otherwise."""
    return Settings(
        _env_file=None,
        database_url="postgresql://test:test@127.0.0.1/test",
        redis_url="redis://127.0.0.1/0",
        simulator_url=url,
        **changes,
    )


@dataclass
class Asker:
    """A driver, and a short way to ask it."""

    case: Case
    driver: Driver
    #: What came as it was made, in the last call.
    pieces: list[str] = field(default_factory=list)

    async def __call__(
        self,
        prompt: str = "a green banana",
        *,
        fault: str = "",
        latency: float = 0.0,
        job: UUID | None = None,
        attempt: int = 1,
        timeout: float = 10.0,
    ) -> Generation:
        words = f"{prompt} [[sim:fault={fault}]]" if fault else prompt
        words = f"{words} [[sim:latency={latency}]]" if latency else words
        self.pieces.clear()
        made = replace(
            call(self.case, job, attempt, timeout),
            on_text=self.pieces.append if self.case.streamed else None,
        )
        return await self.driver.generate(self.case.request(words), made)


def call(case: Case, job: UUID | None = None, attempt: int = 1, timeout: float = 10.0) -> Call:
    """A call of a job; without a job, of a new one."""
    return Call(job_id=job or uuid4(), attempt=attempt, model=case.spec, timeout=timeout)


@dataclass(frozen=True)
class Failure:
    """A fault of the simulator and the error that a driver makes of it."""

    fault: str
    error: type[ProviderError]
    code: str
    status: int | None
    billed: bool | None = False
    gateway_code: str = ""
    only: Callable[[Case], bool] = lambda _case: True


def _google(case: Case) -> bool:
    return case.form == "google"


def _gateway(case: Case) -> bool:
    return case.form == "gateway"


def _images(case: Case) -> bool:
    return case.makes_images


def _google_images(case: Case) -> bool:
    return _google(case) and _images(case)


def _google_text(case: Case) -> bool:
    return _google(case) and not _images(case)


def _streamed(case: Case) -> bool:
    return case.streamed


FAILURES = [
    Failure("400", PermanentError, "invalid_request", 400),
    Failure("bad-key", PermanentError, "unauthenticated", None),
    Failure("402", PermanentError, "insufficient_credit", 402),
    Failure("403", PermanentError, "permission_denied", 403, gateway_code="unauthenticated"),
    Failure("404", PermanentError, "model_not_found", 404),
    Failure("429", RateLimitedError, "rate_limited", 429),
    Failure("499", RetryableError, "provider_unavailable", 499),
    Failure("500", RetryableError, "provider_unavailable", 500),
    Failure("502-html", RetryableError, "provider_unavailable", 502),
    Failure("503", RetryableError, "provider_unavailable", 503),
    Failure("504", RetryableError, "provider_unavailable", 504),
    Failure("blocked-422", PermanentError, "safety_blocked", 422, only=_gateway),
    Failure("empty-200", RetryableError, "malformed_response", 200, None),
    Failure("empty-object", RetryableError, "malformed_response", 200, None),
    Failure("malformed-json", RetryableError, "malformed_response", 200, None),
    Failure("html-200", RetryableError, "malformed_response", 200, None),
    Failure("no-candidates", RetryableError, "malformed_response", 200, True, only=_google),
    Failure("no-candidates", PermanentError, "no_image", 200, True, only=_gateway),
    Failure("truncated-base64", RetryableError, "malformed_response", 200, True, only=_images),
    Failure("truncated-picture", RetryableError, "malformed_response", 200, True, only=_images),
    Failure("not-a-picture", RetryableError, "malformed_response", 200, True, only=_images),
    Failure("text-only", PermanentError, "no_image", 200, True, only=_google_images),
    Failure("no-image", PermanentError, "no_image", 200, True, only=_images),
    Failure("safety", PermanentError, "safety_blocked", 200, True),
    Failure("finish:IMAGE_SAFETY", PermanentError, "safety_blocked", 200, True, only=_google),
    Failure("finish:PROHIBITED_CONTENT", PermanentError, "safety_blocked", 200, True, only=_google),
    Failure("finish:RECITATION", PermanentError, "recitation_blocked", 200, True, only=_google),
    Failure("finish:IMAGE_RECITATION", PermanentError, "recitation_blocked", 200, True, only=_google),
    Failure("finish:MALFORMED_RESPONSE", RetryableError, "malformed_response", 200, True, only=_google),
    Failure("finish:STOP", PermanentError, "no_text", 200, True, only=_google_text),
    Failure("finish:MAX_TOKENS", PermanentError, "no_text", 200, True, only=_google_text),
    Failure("finish:IMAGE_OTHER", PermanentError, "no_image", 200, True, only=_google_images),
    Failure("block-reason", PermanentError, "safety_blocked", 200, True, only=_google),
    Failure("reset", UnknownOutcomeError, "connection_lost", None, None),
    Failure("reset-midbody", UnknownOutcomeError, "connection_lost", None, None),
    Failure("close-midbody", UnknownOutcomeError, "connection_lost", None, None),
    Failure("stream-unfinished", UnknownOutcomeError, "connection_lost", 200, None, only=_streamed),
    Failure("stream-error:503", RetryableError, "provider_unavailable", 503, None, only=_streamed),
    Failure("stream-error:429", RateLimitedError, "rate_limited", 429, None, only=_streamed),
    Failure("stream-error:400", PermanentError, "invalid_request", 400, None, only=_streamed),
]
