"""Errors that a client is told about; ``api/errors.py`` renders each as problem+json.

AppError
├── BadRequest              400
├── Unauthenticated         401
├── Forbidden               403
├── NotFound                404
├── RequestTimeout          408
├── Conflict                409
├── Gone                    410
├── PayloadTooLarge         413
├── UnsupportedMediaType    415
├── RangeNotSatisfiable     416
├── ValidationFailed        422
├── RateLimited             429
└── Unavailable             503
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from pydantic import ValidationError

#: More errors than this help nobody, and a hostile body can have thousands.
MAX_ERRORS = 50


@dataclass(frozen=True, slots=True)
class FieldError:
    """One thing wrong with one field.

    Attributes:
        pointer: JSON pointer into the request body (RFC 6901), such as ``/input/size``; a query
            parameter or header is named ``?limit`` or ``Header-Name``.
        code: stable word for programs, such as ``not_allowed``.
        message: what is wrong and what would be right, for people.
        allowed: the values that would have been accepted, where they can be listed.
        index: where the field is one of a batch's jobs: which, from 0.
        line: likewise, the line of a JSONL body, from 1; the pointer is then one into that line.
    """

    pointer: str
    code: str
    message: str
    allowed: Sequence[Any] | None = None
    index: int | None = None
    line: int | None = None

    def as_json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value is not None}


class AppError(Exception):
    """Base of every error that a client is told about.

    Args:
        detail: what was wrong with this request and what to do, in a sentence.
        code: stable word for programs; the class has a default.
        errors: the fields at fault.
        retry_after: seconds after which trying again makes sense.
    """

    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"
    default_code: ClassVar[str] = "internal_error"

    def __init__(
        self,
        detail: str,
        *,
        code: str | None = None,
        errors: Sequence[FieldError] = (),
        retry_after: int | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code or self.default_code
        self.errors = tuple(errors)
        self.retry_after = retry_after
        self.headers = headers or {}


class BadRequest(AppError):
    """The request could not be read at all."""

    status, title, default_code = 400, "Bad request", "bad_request"


class Unauthenticated(AppError):
    """No API key, or one that is not valid (any more)."""

    status, title, default_code = 401, "API key required", "unauthenticated"


class Forbidden(AppError):
    """The key is valid and lacks the scope."""

    status, title, default_code = 403, "Not allowed with this key", "forbidden"


class NotFound(AppError):
    """There is no such thing in the caller's project."""

    status, title, default_code = 404, "Not found", "not_found"


class RequestTimeout(AppError):
    """The client sends its request too slowly."""

    status, title, default_code = 408, "Request too slow", "request_timeout"


class Conflict(AppError):
    """The thing exists and its state forbids the request."""

    status, title, default_code = 409, "Conflict with the present state", "conflict"


class Gone(AppError):
    """The thing existed and was removed."""

    status, title, default_code = 410, "Gone", "gone"


class PayloadTooLarge(AppError):
    """The body is over the limit."""

    status, title, default_code = 413, "Request body too large", "payload_too_large"


class UnsupportedMediaType(AppError):
    """The body is not of a type that the endpoint reads."""

    status, title, default_code = 415, "Unsupported media type", "unsupported_media_type"


class RangeNotSatisfiable(AppError):
    """The Range header lies outside the artifact."""

    status, title, default_code = 416, "Range not satisfiable", "range_not_satisfiable"


class ValidationFailed(AppError):
    """The body was read and something in it is not allowed; ``errors`` names each field."""

    status, title, default_code = 422, "Validation failed", "validation_failed"


class RateLimited(AppError):
    """The caller is over a limit of its own."""

    status, title, default_code = 429, "Too many requests", "rate_limited"


class Unavailable(AppError):
    """Something this service needs is away; trying again is right."""

    status, title, default_code = 503, "Temporarily unavailable", "unavailable"


def field_errors(error: ValidationError, prefix: str = "") -> list[FieldError]:
    """What pydantic found wrong, with JSON pointers below a prefix; one more than a client is told at most."""
    return [
        field_error(part, prefix + pointer(part["loc"]))
        for part in error.errors(include_url=False, include_input=False)[: MAX_ERRORS + 1]
    ]


def field_error(part: Mapping[str, Any], where: str) -> FieldError:
    """One of pydantic's errors in our words. The value that was given is never repeated."""
    expected = part.get("ctx", {}).get("expected")
    allowed = re.findall(r"'([^']*)'", expected) if isinstance(expected, str) else None
    message = _MESSAGES.get(part["type"]) or part["msg"].removeprefix("Value error, ")
    return FieldError(where, part["type"], message, allowed or None)


def pointer(steps: Sequence[int | str]) -> str:
    """A JSON pointer (RFC 6901)."""
    return "".join(f"/{_escaped(step)}" for step in steps)


def shown(value: object, length: int = 80) -> str:
    """A value as a message shows it: quoted, and cut where it is long."""
    text = repr(value[:length] if isinstance(value, str) else value)
    return text if len(text) <= length + 2 and text == repr(value) else f"{text[:length]}…"


def _escaped(step: int | str) -> str:
    """One step of a JSON pointer; a hostile name is cut."""
    return str(step)[:100].replace("~", "~0").replace("/", "~1")


#: Where pydantic's own words name a class or could be plainer.
_MESSAGES = {
    "extra_forbidden": "is not a field here; look for a misspelling",
    "missing": "is required",
    "model_type": "must be a JSON object",
    "model_attributes_type": "must be a JSON object",
    "dict_type": "must be a JSON object",
    "string_type": "must be a string",
    "list_type": "must be a JSON array",
    "int_parsing_size": "is far too large",
}
