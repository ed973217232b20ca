"""Nano Banana behind a gateway: an authenticated HTTP service that takes one JSON object.

    POST {base}{path}        → 200 the pictures, or 202 an id to ask again for
    GET  {base}{path}/{id}   → queued | running | succeeded | failed | blocked

Only the POST makes work, and it is sent once. After a 202 the work is under way and its answer can only be
waited for: polls that fail are repeated until the deadline, and an answer that is lost then is of unknown
outcome, never a reason to POST again.
"""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any
from urllib.parse import quote

import orjson

from shared.addresses import RefusedUrlError
from shared.config import Settings
from shared.providers import bodies
from shared.providers.base import (
    Call,
    Generation,
    ImageBytes,
    ImageRequest,
    PermanentError,
    PermanentReason,
    ProviderError,
    RateLimitedError,
    RetryableError,
    UnknownOutcomeError,
    Usage,
)
from shared.providers.endpoints import Endpoint
from shared.providers.images import NotAnImageError, decode_base64, inspect
from shared.providers.origin import Answer, Origin
from shared.providers.result_urls import LostResultError, ResultFetcher
from shared.providers.transport import Exchange, guarded, malformed, offload
from shared.providers.wire import retry_after

#: Seconds between polls where the gateway names none, and the bounds of what it may name.
_POLL_PAUSE, _POLL_MIN, _POLL_MAX = 2.0, 0.1, 30.0
#: Seconds for one poll: it is answered at once, or asked again.
_POLL_TIMEOUT = 30.0
#: So many answers in a row that make no sense end the polling.
_POLL_NONSENSE = 3
#: Where an answer keeps the long strings that :mod:`shared.providers.bodies` cut out of it.
_CUT = "\0cut"
#: Base64, cut out of the body or not, or fetched bytes.
_Picture = str | memoryview | bytes
_UNDER_WAY = {"queued", "running"}
_PERMANENT: dict[str, PermanentReason] = {
    "invalid_request": "invalid_request",
    "unauthenticated": "unauthenticated",
    "permission_denied": "permission_denied",
    "insufficient_credit": "insufficient_credit",
    "model_not_found": "model_not_found",
    "content_blocked": "safety_blocked",
}
_TRANSIENT = {"overloaded", "internal", "timeout", "unavailable"}
_REASON_OF_STATUS: dict[int, PermanentReason] = {
    401: "unauthenticated",
    402: "insufficient_credit",
    403: "permission_denied",
    404: "model_not_found",
    451: "safety_blocked",
}


class NanoBananaGatewayDriver:
    """Image generation and editing through a gateway, which is told the catalogue's alias."""

    streams = False

    def __init__(self, endpoint: Endpoint, settings: Settings) -> None:
        self._endpoint = endpoint
        self.provider = endpoint.provider("gateway")
        self._path = f"/{settings.nano_banana_gateway_path.strip('/')}"
        self._header = settings.nano_banana_gateway_auth_header
        self._scheme = settings.nano_banana_gateway_auth_scheme
        self._origin = Origin(endpoint.base_url, error_from, expect=(200, 202))
        hosts = settings.nano_banana_gateway_result_hosts.lower().split(",")
        self._results = ResultFetcher(
            endpoint.base_url, frozenset(host.strip() for host in hosts if host.strip())
        )

    async def generate(self, request: Any, call: Call) -> Generation:
        if not isinstance(request, ImageRequest):
            raise PermanentError(f"{call.model.alias} makes pictures only", reason="invalid_request")
        async with guarded(self._endpoint.key) as exchange:
            async with asyncio.timeout(call.timeout):
                answer = await self._answer(request, call)
                _refuse_failure(answer)
                encoded = await self._encoded(answer)
            images = await offload(sum(map(len, encoded)), _decoded, encoded, answer)
            return _generation(answer, images, exchange)

    async def aclose(self) -> None:
        await self._origin.aclose()
        await self._results.aclose()

    def _auth(self) -> dict[str, str]:
        """The key's header; the scheme ``none`` (an empty setting counts as unset) sends the bare key."""
        key = self._endpoint.key
        return {self._header: key if self._scheme.lower() == "none" else f"{self._scheme} {key}"}

    async def _answer(self, request: ImageRequest, call: Call) -> Mapping[str, Any]:
        """The answer in a final state, waited for where the gateway says that it takes longer."""
        sizes = sum(len(image.data) for image in request.input_images)
        body = await offload(sizes, _encode, request, call.model.alias)
        headers = {
            **self._auth(),
            "content-type": "application/json",
            "idempotency-key": call.request_id,
            "x-request-id": call.request_id,
        }
        response = await self._origin.request("POST", self._path, content=body, headers=headers)
        answer = await _object(response)
        if _state(answer, response.status) not in _UNDER_WAY:
            return answer
        job = answer.get("id")
        if not isinstance(job, str) or not job:
            raise UnknownOutcomeError("The gateway took the job without giving an id to ask for")
        return await self._polled(job, answer, call)

    async def _polled(self, job: str, answer: Mapping[str, Any], call: Call) -> Mapping[str, Any]:
        path = f"{self._path}/{quote(job, safe='')}"
        headers = {**self._auth(), "x-request-id": call.request_id}
        nonsense = 0
        while _state(answer, 202) in _UNDER_WAY:
            await asyncio.sleep(_pause(answer))
            try:
                answer = await self._poll(path, headers)
            except OSError:  # TimeoutError is one
                continue
            except ProviderError as error:
                nonsense += error.error_code == "malformed_response"
                if isinstance(error, PermanentError) or nonsense >= _POLL_NONSENSE:
                    raise UnknownOutcomeError(
                        f"The gateway took the job and lost it: {error.message}", status=error.status
                    ) from None
            else:
                nonsense = 0
        return answer

    async def _poll(self, path: str, headers: Mapping[str, str]) -> Mapping[str, Any]:
        async with asyncio.timeout(_POLL_TIMEOUT):
            return await _object(await self._origin.request("GET", path, headers=headers))

    async def _encoded(self, answer: Mapping[str, Any]) -> list[_Picture]:
        """Each picture: still in base64, or as bytes where it was fetched."""
        found: list[_Picture] = []
        for image in answer.get("images") or []:
            if not isinstance(image, dict):
                continue
            if isinstance(image.get("b64"), str) and image["b64"]:
                found.append(answer[_CUT].get(image["b64"], image["b64"]))
            elif isinstance(image.get("url"), str) and image["url"]:
                found.append(await self._fetched(image["url"], answer))
        return found

    async def _fetched(self, url: str, answer: Mapping[str, Any]) -> bytes:
        try:
            return await self._results.fetch(url)
        except RefusedUrlError as error:
            # Made and paid for: another attempt would be paid for and refused as well.
            raise PermanentError(
                f"The picture was not fetched: {error}", reason="no_image", **_paid(answer)
            ) from None
        except LostResultError as error:
            raise UnknownOutcomeError(f"The picture was made, but {error}", **_paid(answer)) from None


def error_from(status: int, body: bytes | bytearray, headers: Mapping[str, str]) -> ProviderError:
    """What an answer of the gateway other than 200 and 202 means."""
    try:
        loaded = orjson.loads(body) if body else None
    except orjson.JSONDecodeError:
        loaded = None
    error = loaded.get("error") if isinstance(loaded, dict) else None
    if not isinstance(error, dict):
        error = {"message": " ".join(body[:200].decode("utf-8", errors="replace").split()) or "no message"}
    return _error(error, status, retry_after(headers))


def _error(error: Mapping[str, Any], status: int | None, delay: float | None) -> ProviderError:
    """The gateway's word decides, then the HTTP status, then whether it says ``retryable``."""
    code = str(error.get("code", ""))
    words = f"{status or 'failed'}: {error.get('message') or code or 'no message'}"[:1000]
    rest: dict[str, Any] = {"status": status, "upstream_request_id": _text(error.get("request_id"))}
    if code == "rate_limited" or status == 429:
        after = error.get("retry_after_ms")
        known = isinstance(after, int | float) and not isinstance(after, bool) and after >= 0
        return RateLimitedError(words, delay=after / 1000 if known else delay, **rest)  # type: ignore[operator]
    if code in _PERMANENT:
        # "invalid_request" says less than a 404 does.
        general = _PERMANENT[code] == "invalid_request"
        reason = _REASON_OF_STATUS.get(status or 0, "invalid_request") if general else _PERMANENT[code]
        return PermanentError(words, reason=reason, **rest)
    if code in _TRANSIENT or (status is not None and (status >= 500 or status < 400)):
        return RetryableError(words, **rest)
    if status in {408, 409, 425, 499} or error.get("retryable") is True:
        return RetryableError(words, **rest)
    return PermanentError(words, reason=_REASON_OF_STATUS.get(status or 0, "invalid_request"), **rest)


def _refuse_failure(answer: Mapping[str, Any]) -> None:
    """Raises for a final state other than success."""
    error = answer.get("error")
    told = error if isinstance(error, dict) else {}
    match _state(answer, 200):
        case "succeeded":
            return
        case "blocked":
            words = told.get("message") or "the gateway gives no reason"
            raise PermanentError(
                f"The picture was blocked: {words}", reason="safety_blocked", **_paid(answer)
            )
        case "failed" if told.get("retryable") is True or told.get("code") in _PERMANENT:
            raise _with_payment(_error(told, None, None), answer)
        case "failed":
            words = told.get("message") or "the gateway gives no reason"
            raise PermanentError(f"The gateway made no picture: {words}", reason="no_image", **_paid(answer))
        case state:
            raise malformed(f"the state {state!r}"[:100])


def _decoded(encoded: list[_Picture], answer: Mapping[str, Any]) -> list[ImageBytes]:
    """Decodes and checks the pictures; slow for megabytes."""
    if not encoded:
        raise PermanentError("The gateway answered without a picture", reason="no_image", **_paid(answer))
    try:
        return [inspect(data if isinstance(data, bytes) else decode_base64(data)) for data in encoded]
    except NotAnImageError as error:
        raise _with_payment(malformed(str(error)), answer) from None


def _generation(answer: Mapping[str, Any], images: list[ImageBytes], exchange: Exchange) -> Generation:
    return Generation(
        text=None,
        images=images,
        finish_reason="stop",
        usage=_usage(answer) or Usage(),
        model_version=_text(answer.get("model")),
        upstream_request_id=_text(answer.get("id")),
        simulated=exchange.simulated,
        cost_usd=_cost(answer),
    )


def _encode(request: ImageRequest, alias: str) -> bytes:
    body: dict[str, Any] = {
        "model": alias,
        "prompt": request.prompt,
        "aspect_ratio": request.aspect_ratio,
        "size": request.size,
        "response_format": "b64",
        "output_format": "png",
    }
    if request.seed is not None:
        body["seed"] = request.seed
    if request.input_images:
        body["input_images"] = [
            {"mime_type": image.media_type, "data": b64encode(image.data).decode("ascii")}
            for image in request.input_images
        ]
    return orjson.dumps(body)


async def _object(response: Answer) -> Mapping[str, Any]:
    try:
        loaded, cut = await offload(len(response.content), bodies.load, response.content, "b64")
    except orjson.JSONDecodeError as error:
        raise malformed(f"not JSON ({error})"[:200]) from None
    if not isinstance(loaded, dict) or not loaded:
        raise malformed("JSON that is no object, or an empty one")
    return {**loaded, _CUT: cut}


def _state(answer: Mapping[str, Any], status: int) -> str:
    """The answer's own word; without one, what its HTTP status means."""
    return str(answer.get("status") or ("running" if status == 202 else "succeeded"))


def _pause(answer: Mapping[str, Any]) -> float:
    after = answer.get("poll_after_ms")
    if isinstance(after, bool) or not isinstance(after, int | float):
        return _POLL_PAUSE
    return min(max(after / 1000, _POLL_MIN), _POLL_MAX)


def _paid(answer: Mapping[str, Any]) -> dict[str, Any]:
    """What an error says about work that was done."""
    usage = _usage(answer)
    return {
        "status": 200,
        "usage": usage,
        "billed": True if usage else None,
        "model_version": _text(answer.get("model")),
        "upstream_request_id": _text(answer.get("id")),
    }


def _with_payment(error: ProviderError, answer: Mapping[str, Any]) -> ProviderError:
    for name, value in _paid(answer).items():
        setattr(error, name, value)
    return error


def _usage(answer: Mapping[str, Any]) -> Usage | None:
    """Gateways do not tell image tokens from others: all that came out counts as picture."""
    told = answer.get("usage")
    if not isinstance(told, dict):
        return None
    output = _count(told.get("output_tokens"))
    return Usage(input_tokens=_count(told.get("input_tokens")), output_tokens=output, image_tokens=output)


def _cost(answer: Mapping[str, Any]) -> Decimal | None:
    told = answer.get("usage")
    value = told.get("cost_usd") if isinstance(told, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        cost = Decimal(str(value))
    except InvalidOperation:
        return None
    return cost if cost.is_finite() and cost >= 0 else None


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
