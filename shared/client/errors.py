"""What can go wrong, as a program of yours meets it.

PlantainError
├── ConfigurationError      the address or the key cannot be used; nothing was sent
├── NoAnswer                no (whole) answer came, however often it was tried
├── UnexpectedAnswer        an answer that is not of this API: another server, or a proxy's page
├── WaitTimeout             the job was not final in time; it goes on
├── BatchTimeout            the batch was not completed in time; it goes on
├── DownloadFailed          the bytes that came are not those that were announced
├── WebhookInvalid          a delivery that nobody should believe
└── ApiError                the API refused; problem+json (RFC 9457)
    ├── BadRequest 400, Unauthenticated 401, Forbidden 403, NotFound 404, Conflict 409, Gone 410,
    │   PayloadTooLarge 413, ValidationFailed 422, RateLimited 429
    └── Unavailable 502, 503, 504

None of them shows the API key or a secret of webhooks.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import httpx

if TYPE_CHECKING:
    from shared.client.models import Batch, Job

#: Characters of a foreign answer that an error shows.
_SHOWN = 200


class PlantainError(Exception):
    """Base of all that this client raises."""


class ConfigurationError(PlantainError):
    """The address or the key cannot be used."""


class NoAnswer(PlantainError):
    """The API could not be reached, or its answer broke off.

    Whether it has done what it was asked is not known. Submits carry an idempotency key: sending one again with
    the same ``idempotency_key`` makes no second job.
    """


class UnexpectedAnswer(PlantainError):
    """Something answered that does not speak this API."""


class WaitTimeout(PlantainError):
    """The job is not final yet. It goes on; ``job`` is what was last heard of it."""

    def __init__(self, job: Job, seconds: float) -> None:
        super().__init__(f"job {job.id} is still {job.state} after {seconds:g} s; it goes on")
        self.job = job


class BatchTimeout(PlantainError):
    """The batch is not completed yet. It goes on; ``batch`` is what was last heard of it."""

    def __init__(self, batch: Batch, seconds: float) -> None:
        super().__init__(f"batch {batch.id} is still {batch.state} after {seconds:g} s; it goes on")
        self.batch = batch


class DownloadFailed(PlantainError):
    """What came is not what was announced; nothing was put at the path."""


class WebhookInvalid(PlantainError):
    """The delivery is not signed with the secret, or is too old."""


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """One thing wrong with one field.

    Attributes:
        pointer: JSON pointer into the body, ``?name`` for a parameter, or a header's name.
        code: stable word for programs.
        message: what is wrong and what would be right.
        allowed: what would have been accepted, where that can be listed.
    """

    pointer: str
    code: str
    message: str
    allowed: Sequence[Any] | None = None

    def __str__(self) -> str:
        said = f"{self.pointer or '(body)'} {self.message}"
        missing = [str(value) for value in self.allowed or () if str(value) not in self.message]
        return f"{said}; allowed: {', '.join(map(str, self.allowed or ()))}" if missing else said


class ApiError(PlantainError):
    """The API refused.

    Attributes:
        status: of HTTP.
        code: stable word for programs; ``/docs`` of the server lists them.
        detail: what was wrong and what to do.
        errors: the fields at fault.
        request_id: names the request in the server's log.
        retry_after: seconds after which trying again makes sense.
        repeated: an earlier try of the same request was not answered for sure, and may have gone through.
    """

    transient: ClassVar[bool] = False

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        errors: Sequence[FieldProblem] = (),
        request_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        lines = [f"{detail} ({status} {code})", *(f"  {entry}" for entry in errors)]
        if request_id:
            lines.append(f"  request id: {request_id}")
        super().__init__("\n".join(lines))
        self.status = status
        self.code = code
        self.detail = detail
        self.errors = tuple(errors)
        self.request_id = request_id
        self.retry_after = retry_after
        self.repeated = False

    @property
    def may_pass(self) -> bool:
        """Whether the same request may succeed a little later."""
        return self.transient or self.code in {"idempotency_key_in_use", "request_timeout"}


class BadRequest(ApiError):
    """The request could not be read."""


class Unauthenticated(ApiError):
    """No key, or one that is not valid (any more)."""


class Forbidden(ApiError):
    """The key lacks the scope."""


class NotFound(ApiError):
    """Not in this project."""


class Conflict(ApiError):
    """The state forbids it: no result yet, not final yet, …"""


class Gone(ApiError):
    """It was removed."""


class PayloadTooLarge(ApiError):
    """The request is over a limit."""


class ValidationFailed(ApiError):
    """Something in the request is not allowed; ``errors`` names each field."""


class RateLimited(ApiError):
    """Too many requests, for longer than the client was willing to wait."""

    transient = True


class Unavailable(ApiError):
    """The server, or something that it needs, is away for longer than the client was willing to wait."""

    transient = True


_BY_STATUS: dict[int, type[ApiError]] = {
    400: BadRequest,
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
    413: PayloadTooLarge,
    422: ValidationFailed,
    429: RateLimited,
    502: Unavailable,
    503: Unavailable,
    504: Unavailable,
}


def error_of(response: httpx.Response) -> ApiError:
    """The error that an answer stands for; one of a proxy has the code ``not_a_problem``."""
    status = response.status_code
    kind = _BY_STATUS.get(status, ApiError)
    retry_after = _seconds(response.headers.get("retry-after"))
    request_id = response.headers.get("x-request-id")
    problem = _problem(response)
    if problem is None:
        detail = (
            f"{response.request.url.host} answered with something other than a problem: {_start(response)}"
        )
        return kind(status, "not_a_problem", detail, request_id=request_id, retry_after=retry_after)
    return kind(
        status,
        problem["code"],
        _plain(problem.get("detail") or problem.get("title") or "refused"),
        errors=[_field(entry) for entry in problem.get("errors") or () if isinstance(entry, dict)],
        request_id=problem.get("request_id") or request_id,
        retry_after=retry_after,
    )


def _problem(response: httpx.Response) -> dict[str, Any] | None:
    try:
        body = json.loads(response.content)
    except ValueError:
        return None
    return body if isinstance(body, dict) and isinstance(body.get("code"), str) else None


def _field(entry: dict[str, Any]) -> FieldProblem:
    allowed = entry.get("allowed")
    return FieldProblem(
        pointer=_plain(entry.get("pointer", "")),
        code=_plain(entry.get("code", "")),
        message=_plain(entry.get("message", "")),
        allowed=tuple(allowed) if isinstance(allowed, list) else None,
    )


def _seconds(header: str | None) -> float | None:
    """Our API says seconds; a proxy may say a date, which is taken for "later"."""
    return float(header) if header and header.isascii() and header.isdigit() else None


def _start(response: httpx.Response) -> str:
    text = response.content[: _SHOWN * 4].decode("utf-8", "replace").strip()
    return repr(_plain(text[:_SHOWN])) if text else "an empty body"


def _plain(text: object) -> str:
    """Without control characters, which could write anything on a terminal."""
    return "".join(char if char.isprintable() else " " for char in str(text))
