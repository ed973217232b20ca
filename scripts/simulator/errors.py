"""Google's error envelope."""

from dataclasses import dataclass, field
from typing import Any

_RPC = "type.googleapis.com/google.rpc."
_SERVICE = "generativelanguage.googleapis.com"
_QUOTA_METRIC = f"{_SERVICE}/generate_content_paid_tier_requests"
_RATE_TEXT = (
    "You exceeded your current quota, please check your plan and billing details. "
    "For more information on this error, head to: https://ai.google.dev/gemini-api/docs/rate-limits."
)


@dataclass
class GoogleError(Exception):
    """An answer of 4xx or 5xx in Google's form."""

    code: int
    status: str
    message: str
    details: list[dict[str, Any]] = field(default_factory=list)

    def body(self) -> dict[str, Any]:
        """The JSON envelope."""
        error: dict[str, Any] = {"code": self.code, "message": self.message, "status": self.status}
        if self.details:
            error["details"] = self.details
        return {"error": error}


def invalid_argument(message: str, field_path: str = "", description: str = "") -> GoogleError:
    """400 INVALID_ARGUMENT; with a field path also the BadRequest detail."""
    details = []
    if field_path or description:
        violation = {"field": field_path, "description": description or message}
        details = [{"@type": _RPC + "BadRequest", "fieldViolations": [violation]}]
    return GoogleError(400, "INVALID_ARGUMENT", message, details)


def no_key() -> GoogleError:
    """403: the request carries no key at all."""
    return GoogleError(
        403,
        "PERMISSION_DENIED",
        "Method doesn't allow unregistered callers (callers without established identity). "
        "Please use API Key or other form of API consumer identity to call this API.",
    )


def bad_key() -> GoogleError:
    """400: Google answers a wrong key as an invalid argument."""
    message = "API key not valid. Please pass a valid API key."
    info = {"reason": "API_KEY_INVALID", "domain": "googleapis.com", "metadata": {"service": _SERVICE}}
    return GoogleError(
        400,
        "INVALID_ARGUMENT",
        message,
        [
            {"@type": _RPC + "ErrorInfo", **info},
            {"@type": _RPC + "LocalizedMessage", "locale": "en-US", "message": message},
        ],
    )


def model_not_found(model: str, version: str, method: str = "generateContent") -> GoogleError:
    """404: an unknown or retired model id."""
    return GoogleError(
        404,
        "NOT_FOUND",
        f"models/{model} is not found for API version {version}, or is not supported for {method}. "
        "Call ListModels to see the list of available models and their supported methods.",
    )


def rate_limited(model: str, retry_delay: float | None, quota_id: str, quota_value: str) -> GoogleError:
    """429 with QuotaFailure and, when a delay in seconds is given, RetryInfo."""
    violation = {
        "quotaMetric": _QUOTA_METRIC,
        "quotaId": quota_id,
        "quotaDimensions": {"location": "global", "model": model},
        "quotaValue": quota_value,
    }
    details: list[dict[str, Any]] = [{"@type": _RPC + "QuotaFailure", "violations": [violation]}]
    message = (
        f"{_RATE_TEXT}\n* Quota exceeded for metric: {_QUOTA_METRIC}, limit: {quota_value}, model: {model}"
    )
    if retry_delay is not None:
        details.append({"@type": _RPC + "RetryInfo", "retryDelay": f"{retry_delay:g}s"})
        message += f"\nPlease retry in {retry_delay:g}s."
    return GoogleError(429, "RESOURCE_EXHAUSTED", message, details)


def spend_limited() -> GoogleError:
    """429 of the spend-based limit: no delay is given, ten minutes are meant."""
    return GoogleError(
        429,
        "RESOURCE_EXHAUSTED",
        "You have exceeded your spend-based rate limit. The limit is evaluated over a rolling 10-minute window.",
    )
