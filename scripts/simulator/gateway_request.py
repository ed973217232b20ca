"""A /visualize body understood, and the gateway's error envelope."""

import base64
import binascii
import secrets
from dataclasses import dataclass
from typing import Any

import orjson

from .facts import (
    DIMENSIONS_1K,
    GATEWAY_MODELS,
    INPUT_MEDIA_TYPES,
    MAX_INPUT_IMAGE_BYTES,
    MAX_INPUT_IMAGES,
    MAX_REQUEST_BYTES,
    SIZES,
    Model,
)
from .settings import Settings

_FIELDS = {
    "model": str,
    "prompt": str,
    "aspect_ratio": str,
    "size": str,
    "seed": int,
    "input_images": list,
    "response_format": str,
    "output_format": str,
}
_MEDIA_TYPES = {"png": "image/png", "jpeg": "image/jpeg", "jpg": "image/jpeg"}


@dataclass
class GatewayError(Exception):
    """An answer of 4xx or 5xx in the gateway's form."""

    status: int
    code: str
    message: str
    retryable: bool = False
    retry_after_ms: int | None = None

    def body(self) -> dict[str, Any]:
        """The JSON envelope."""
        error: dict[str, Any] = {
            "code": self.code,
            "message": self.message,
            "retryable": self.retryable,
            "request_id": "req_" + secrets.token_hex(8),
        }
        if self.retry_after_ms is not None:
            error["retry_after_ms"] = self.retry_after_ms
        return {"error": error}


def invalid(message: str, status: int = 400) -> GatewayError:
    """The request is wrong and stays wrong."""
    return GatewayError(status, "invalid_request", message)


@dataclass(frozen=True, slots=True)
class Order:
    """What a valid request asks for."""

    model: Model
    prompt: str
    ratio: str
    size: str
    seed: int | None
    inputs: tuple[tuple[str, bytes], ...]
    by_url: bool
    media_type: str


def read_body(raw: bytes) -> dict[str, Any]:
    """The JSON object of a body. Raises GatewayError."""
    if len(raw) > MAX_REQUEST_BYTES:
        raise invalid(f"the request is larger than {MAX_REQUEST_BYTES} bytes", 413)
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise invalid(f"the body is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise invalid("the body is not a JSON object")
    return body


def understand(body: dict[str, Any], settings: Settings) -> Order:
    """The order in a body. Raises GatewayError."""
    given = {name: value for name, value in body.items() if value is not None}
    for name, value in given.items():
        if name not in _FIELDS:
            raise invalid(f"unknown field {name!r}")
        if not isinstance(value, _FIELDS[name]) or isinstance(value, bool):
            raise invalid(f"{name} has the wrong type")
    if not given.get("prompt", "").strip():
        raise invalid("prompt is empty")
    model = _model(given.get("model", ""), settings)
    output = given.get("output_format")
    return Order(
        model=model,
        prompt=given["prompt"],
        ratio=_one_of(given, "aspect_ratio", tuple(DIMENSIONS_1K), ""),
        size=_one_of(given, "size", SIZES, "1K"),
        seed=given.get("seed"),
        inputs=_inputs(given.get("input_images", [])),
        by_url=_one_of(given, "response_format", ("b64", "url"), "b64") == "url",
        media_type=_MEDIA_TYPES[_one_of(given, "output_format", tuple(_MEDIA_TYPES), "png")]
        if output
        else model.media_type,
    )


def _model(name: str, settings: Settings) -> Model:
    model = settings.model(GATEWAY_MODELS.get(name, name))
    if model is None or model.kind != "image":
        raise invalid(f"there is no model {name!r}", 404)
    return model


def _one_of(given: dict[str, Any], name: str, allowed: tuple[str, ...], default: str) -> str:
    value = given.get(name, default)
    if value not in allowed and value != default:
        raise invalid(f"{name} is one of {', '.join(allowed)}, not {value!r}")
    return str(value)


def _inputs(given: list[Any]) -> tuple[tuple[str, bytes], ...]:
    if len(given) > MAX_INPUT_IMAGES:
        raise invalid(f"{len(given)} input images; {MAX_INPUT_IMAGES} at most")
    return tuple(_input(member) for member in given)


def _input(member: Any) -> tuple[str, bytes]:
    if not isinstance(member, dict) or not isinstance(member.get("data"), str):
        raise invalid("an input image is an object with mime_type and data")
    media_type = str(member.get("mime_type"))
    if media_type not in INPUT_MEDIA_TYPES:
        raise invalid(f"unsupported mime_type {media_type!r}")
    try:
        data = base64.b64decode(member["data"], validate=True)
    except binascii.Error:
        raise invalid("input image data is not base64") from None
    if len(data) > MAX_INPUT_IMAGE_BYTES:
        raise invalid(f"an input image is larger than {MAX_INPUT_IMAGE_BYTES} bytes")
    return media_type, data
