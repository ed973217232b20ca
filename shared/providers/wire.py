"""Google's ``:generateContent`` form, as far as its users share it: answers, errors and usage.

Answers are read from the raw JSON and never through an SDK's classes, which drop fields and break on
values that they do not know. Shapes: docs of the Gemini API, ``GenerateContentResponse`` and ``Status``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo

import orjson

from shared.providers import bodies
from shared.providers.base import (
    Generation,
    ImageBytes,
    PermanentError,
    PermanentReason,
    ProviderError,
    RateLimitedError,
    RetryableError,
    Usage,
)
from shared.providers.images import NotAnImageError, decode_base64, inspect
from shared.providers.transport import malformed

#: What an answer's body comes as.
Body = bytes | bytearray | str

#: Google's daily quotas begin anew at midnight there.
_PACIFIC = ZoneInfo("America/Los_Angeles")
#: Spend limits count the last ten minutes.
_SPEND_WINDOW = 600.0
#: Finish and block reasons by their protobuf number: the old SDK asks for numbers.
_FINISH_NUMBERS = [
    "",
    "STOP",
    "MAX_TOKENS",
    "SAFETY",
    "RECITATION",
    "OTHER",
    "LANGUAGE",
    "BLOCKLIST",
    "PROHIBITED_CONTENT",
    "SPII",
    "MALFORMED_FUNCTION_CALL",
    "IMAGE_SAFETY",
]
_BLOCK_NUMBERS = ["", "SAFETY", "OTHER", "BLOCKLIST", "PROHIBITED_CONTENT", "IMAGE_SAFETY"]
_IMAGE_MODALITY = ("IMAGE", "2")
_SAFETY = {"SAFETY", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT"}
_RECITATION = {"RECITATION", "IMAGE_RECITATION"}
_MALFORMED = {"MALFORMED_RESPONSE", "MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL"}
_REASON_OF_STATUS: dict[int, PermanentReason] = {
    401: "unauthenticated",
    402: "insufficient_credit",
    403: "permission_denied",
    404: "model_not_found",
}
#: Statuses below 500 that say "not now" rather than "not this". 499: the provider gave the call up.
_TRANSIENT = {408, 409, 425, 499}


@dataclass(frozen=True, slots=True)
class _Answer:
    """The parts of an answer that both readers need; ``parts`` holds no thoughts."""

    parts: list[Mapping[str, Any]]
    finish: str
    finish_message: str
    usage: Usage | None
    model_version: str | None
    response_id: str | None

    def failure(self) -> dict[str, Any]:
        """What an error says about an answer that came in full."""
        return {
            "status": 200,
            "usage": self.usage,
            "model_version": self.model_version,
            "upstream_request_id": self.response_id,
        }

    def paid(self) -> bool | None:
        return True if self.usage else None

    def text(self) -> str:
        return _text(self.parts)

    def generation(self, text: str | None, images: list[ImageBytes]) -> Generation:
        return Generation(
            text=text,
            images=images,
            finish_reason=self.finish.lower(),
            usage=self.usage or Usage(),
            model_version=self.model_version,
            upstream_request_id=self.response_id,
        )


def read_text(body: Body) -> Generation:
    """Reads the answer to a text request: its parts in order, without the model's thoughts.

    Raises:
        PermanentError: blocked (``safety_blocked``, ``recitation_blocked``), or ``no_text``.
        RetryableError: ``malformed_response``.
    """
    return read_answer(_load(body))


def read_answer(loaded: Any) -> Generation:
    """As ``read_text``, of JSON that was parsed already."""
    answer = _read(loaded)
    text = answer.text()
    if not text:
        words = {"MAX_TOKENS": "The output limit was used up before any text: raise max_output_tokens"}
        raise _permanent(answer, "no_text", words.get(answer.finish, "The model answered without text"))
    return answer.generation(text, [])


def read_images(body: bytes | bytearray) -> Generation:
    """Reads the answer to an image request; slow for megabytes, so call it in a thread.

    Raises:
        PermanentError: blocked (``safety_blocked``, ``recitation_blocked``), or ``no_image``.
        RetryableError: ``malformed_response``, also where the bytes are no whole picture.
    """
    loaded, cut = _load_cut(body)
    answer = _read(loaded)
    encoded = [data for part in answer.parts if (data := _inline_data(part)) is not None]
    if not encoded:
        raise _permanent(answer, "no_image", "The model answered without a picture")
    try:
        images = [inspect(decode_base64(cut.get(data, data))) for data in encoded]
    except NotAnImageError as error:
        raise _malformed(answer, str(error)) from None
    return answer.generation(answer.text() or None, images)


#: What each part of a stream may say anew; the last word holds.
_OF_ANSWERS = ("promptFeedback", "usageMetadata", "modelVersion", "responseId")
_OF_CANDIDATES = ("finishReason", "finishMessage")


def add_part(whole: dict[str, Any], part: Mapping[str, Any]) -> str:
    """Adds a stream's part to the answer it belongs to, all but its text, which is returned."""
    whole |= {name: value for name in _OF_ANSWERS if (value := _get(part, name))}
    candidates = _list(_get(part, "candidates"))
    if not candidates:
        return ""
    candidate = _dict(candidates[0])
    if "candidates" not in whole:
        whole["candidates"] = [{}]
    whole["candidates"][0] |= {name: value for name in _OF_CANDIDATES if (value := _get(candidate, name))}
    return _text(_spoken(_dict(candidate.get("content"))))


def is_finished(whole: Mapping[str, Any]) -> bool:
    """Whether an answer put together from parts lacks none: each ends with a reason, or has no candidate."""
    return all("finishReason" in candidate for candidate in whole.get("candidates", ()))


def with_text(whole: dict[str, Any], text: str) -> dict[str, Any]:
    """The answer with the text of its parts."""
    for candidate in whole.get("candidates", ()) if text else ():
        candidate["content"] = {"parts": [{"text": text}]}
    return whole


def _spoken(content: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """A candidate's parts without its thoughts."""
    return [part for part in map(_dict, _list(content.get("parts"))) if not part.get("thought")]


def _text(parts: Sequence[Mapping[str, Any]]) -> str:
    return "".join(text for part in parts if isinstance(text := part.get("text"), str))


def _load(body: Body) -> Any:
    try:
        return orjson.loads(body) if body else None
    except orjson.JSONDecodeError as error:
        raise malformed(f"not JSON ({error})"[:200]) from None


def _load_cut(body: bytes | bytearray) -> tuple[Any, dict[str, memoryview]]:
    try:
        return bodies.load(body, "data") if body else (None, {})
    except orjson.JSONDecodeError as error:
        raise malformed(f"not JSON ({error})"[:200]) from None


def _read(loaded: Any) -> _Answer:
    if not isinstance(loaded, dict):
        raise malformed("an empty body" if loaded is None else "JSON that is no object")
    candidates = _list(_get(loaded, "candidates"))
    candidate = _dict(candidates[0]) if candidates else {}
    content = _dict(candidate.get("content"))
    answer = _Answer(
        parts=_spoken(content),
        finish=_named(_get(candidate, "finishReason"), _FINISH_NUMBERS),
        finish_message=_string(_get(candidate, "finishMessage")) or "",
        usage=_usage(_dict(_get(loaded, "usageMetadata")), has_image=_has_image(content)),
        model_version=_string(_get(loaded, "modelVersion")),
        response_id=_string(_get(loaded, "responseId")),
    )
    block = _named(_get(_dict(_get(loaded, "promptFeedback")), "blockReason"), _BLOCK_NUMBERS)
    if block:
        raise _permanent(answer, "safety_blocked", f"The prompt was blocked ({block})")
    if not candidate:
        raise _malformed(answer, "neither candidates nor a reason why there are none")
    _refuse_finish(answer)
    return answer


def _refuse_finish(answer: _Answer) -> None:
    if answer.finish in _SAFETY:
        raise _permanent(answer, "safety_blocked", "The answer was blocked")
    if answer.finish in _RECITATION:
        raise _permanent(
            answer, "recitation_blocked", "The answer repeated existing material and was blocked"
        )
    if answer.finish == "NO_IMAGE":
        raise _permanent(answer, "no_image", "The model made no picture")
    if answer.finish in _MALFORMED:
        raise _malformed(answer, answer.finish)


def _permanent(answer: _Answer, reason: PermanentReason, words: str) -> PermanentError:
    told = f"{words} (finish reason {answer.finish})" if answer.finish else words
    if answer.finish_message:
        told = f"{told}: {answer.finish_message}"
    return PermanentError(told, reason=reason, billed=answer.paid(), **answer.failure())


def _malformed(answer: _Answer, words: str) -> RetryableError:
    error = malformed(words)
    error.usage, error.model_version = answer.usage, answer.model_version
    error.upstream_request_id = answer.response_id
    error.billed = answer.paid()
    return error


def _named(value: Any, names: Sequence[str]) -> str:
    """An enum's name, whether the answer gives that or its number; empty where there is none."""
    if isinstance(value, int) and not isinstance(value, bool):
        return names[value] if 0 <= value < len(names) else f"NUMBER_{value}"
    return value if isinstance(value, str) else ""


def _inline_data(part: Mapping[str, Any]) -> str | None:
    return _string(_get(_dict(_get(part, "inlineData")), "data"))


def _has_image(content: Mapping[str, Any]) -> bool:
    return any(_inline_data(part) is not None for part in map(_dict, _list(content.get("parts"))))


def _usage(metadata: Mapping[str, Any], *, has_image: bool) -> Usage | None:
    if not metadata:
        return None
    output = _count(metadata, "candidatesTokenCount")
    details = _list(_get(metadata, "candidatesTokensDetails"))
    of_images = sum(
        _count(detail, "tokenCount")
        for detail in map(_dict, details)
        if str(detail.get("modality", "")).upper() in _IMAGE_MODALITY
    )
    # Without details, an answer with a picture counts as all picture: rather too dear than ten times too cheap.
    return Usage(
        input_tokens=_count(metadata, "promptTokenCount"),
        output_tokens=output,
        thought_tokens=_count(metadata, "thoughtsTokenCount"),
        image_tokens=output if has_image and not details else of_images,
        cached_tokens=_count(metadata, "cachedContentTokenCount"),
    )


def error_from(
    status: int, body: Body, headers: Mapping[str, str], *, now: datetime | None = None
) -> ProviderError:
    """What an answer other than 200 means; ``body`` is Google's error envelope or anything else.

    Args:
        headers: the answer's, read case-insensitively if the mapping does so.
        now: moment from which the delay of a daily quota counts.
    """
    error = _error_object(body)
    words = (_string(error.get("message")) or _excerpt(body) or "no message")[:1000]
    told = f"{status}: {words}"
    details = [_dict(detail) for detail in _list(error.get("details"))]
    if status == 429:
        return _rate_limited(told, details, headers, now or datetime.now(UTC))
    if status >= 500 or status in _TRANSIENT or status < 400:
        return RetryableError(told, status=status)
    return PermanentError(told, reason=_reason(status, error, details), status=status)


def _reason(status: int, error: Mapping[str, Any], details: list[Mapping[str, Any]]) -> PermanentReason:
    if any(str(detail.get("reason", "")).startswith("API_KEY") for detail in details):
        return "unauthenticated"
    # 400 for an account's country or billing: nothing that the request could do better.
    if status == 400 and error.get("status") == "FAILED_PRECONDITION":
        return "permission_denied"
    return _REASON_OF_STATUS.get(status, "invalid_request")


def _rate_limited(
    words: str, details: list[Mapping[str, Any]], headers: Mapping[str, str], now: datetime
) -> RateLimitedError:
    """A daily quota also carries a RetryInfo of seconds, so the quota's name is looked at first."""
    quotas = [_dict(quota) for detail in details for quota in _list(detail.get("violations"))]
    if any("PerDay" in str(quota.get("quotaId", "")) for quota in quotas):
        return RateLimitedError(words, delay=until_midnight_pacific(now), code="quota_exhausted", status=429)
    if "spend-based" in words.lower():
        return RateLimitedError(words, delay=_SPEND_WINDOW, code="spend_limited", status=429)
    delays = [_seconds(detail.get("retryDelay")) for detail in details]
    known = [delay for delay in delays if delay is not None]
    delay = max(known) if known else retry_after(headers)
    return RateLimitedError(words, delay=delay, per_minute=_per_minute(quotas), status=429)


def _per_minute(quotas: list[Mapping[str, Any]]) -> int | None:
    """The limit of requests a minute that was met, as QuotaFailure names it."""
    values = [
        str(quota.get("quotaValue", ""))
        for quota in quotas
        if "RequestsPerMinute" in str(quota.get("quotaId", ""))
    ]
    limits = [
        int(value) for value in values if value.isascii() and value.isdigit() and 0 < int(value) < 10**6
    ]
    return min(limits) if limits else None


def until_midnight_pacific(now: datetime) -> float:
    """Seconds until Google's quota day ends; right on days of 23 and 25 hours too."""
    tomorrow = now.astimezone(_PACIFIC).date() + timedelta(days=1)
    midnight = datetime(tomorrow.year, tomorrow.month, tomorrow.day, tzinfo=_PACIFIC)
    return (midnight.astimezone(UTC) - now.astimezone(UTC)).total_seconds()


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The ``Retry-After`` header in seconds; None where it is absent or a date."""
    return _seconds(f"{headers.get('retry-after', '')}s")


def _seconds(duration: Any) -> float | None:
    """Reads protobuf's JSON form of a duration, such as ``"2.5s"``."""
    if not isinstance(duration, str) or not duration.endswith("s"):
        return None
    try:
        seconds = float(duration[:-1])
    except ValueError:
        return None
    return seconds if 0 <= seconds <= 7 * 86400 else None


def _error_object(body: Body) -> Mapping[str, Any]:
    try:
        loaded = orjson.loads(body) if body else None
    except orjson.JSONDecodeError:
        return {}
    # Some proxies, and Google's own streaming method, wrap the envelope in a list.
    if isinstance(loaded, list) and loaded:
        loaded = loaded[0]
    return _dict(_dict(loaded).get("error"))


def _excerpt(body: Body) -> str:
    text = body if isinstance(body, str) else body[:1000].decode("utf-8", errors="replace")
    return " ".join(text[:200].split())


def _get(mapping: Mapping[str, Any], name: str) -> Any:
    """A field by its camelCase name, or as proxies spell it, in snake_case."""
    if name in mapping:
        return mapping[name]
    return mapping.get(_snake_case(name))


@cache
def _snake_case(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)


def _dict(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _string(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _count(mapping: Mapping[str, Any], name: str) -> int:
    value = _get(mapping, name)
    return value if isinstance(value, int) and value > 0 else 0
