"""A generateContent request understood: what is asked of which model. Everything wrong with it is a GoogleError."""

import hashlib
from dataclasses import dataclass
from typing import Any

from . import schema
from .errors import GoogleError, invalid_argument
from .facts import (
    DIMENSIONS_1K,
    INPUT_MEDIA_TYPES,
    MAX_INPUT_IMAGE_BYTES,
    MAX_INPUT_IMAGES,
    MAX_REQUEST_BYTES,
    SIZES,
    Model,
    tokens_of,
)

JSON_TYPE, ENUM_TYPE, PLAIN_TYPE = "application/json", "text/x.enum", "text/plain"
_TEXT_INPUT_TYPES = INPUT_MEDIA_TYPES | {"application/pdf", "text/plain"}


@dataclass(frozen=True, slots=True)
class Order:
    """What a valid request asks for."""

    model: Model
    prompt: str  # the last user turn's text, directives included
    prompt_text_tokens: int
    images: tuple[tuple[str, bytes], ...]
    seed: int | None
    response_type: str
    json_schema: dict[str, Any] | None
    max_tokens: int | None
    stop_sequences: list[str]
    candidate_count: int
    thinks: bool
    include_thoughts: bool
    wants_text: bool
    wants_image: bool
    ratio: str  # "" = the first input image's, else 1:1
    size: str
    media_type: str

    @property
    def latency_size(self) -> str:
        """The key of the model's latency table."""
        return self.size if self.wants_image else ""

    def digest(self, draw: int) -> int:
        """The seed for everything random in the answer: the request's own, else `draw`."""
        return self.seed if self.seed is not None else draw


def understand(parsed: dict[str, Any], model: Model, body_bytes: int) -> Order:
    """The order in a parsed body. Raises GoogleError (400)."""
    if body_bytes > MAX_REQUEST_BYTES:
        raise invalid_argument(f"Request payload size exceeds the limit: {MAX_REQUEST_BYTES} bytes.")
    contents = parsed.get("contents") or []
    _check_contents(contents)
    config = parsed.get("generation_config") or {}
    _check_numbers(config)
    image_config = _image_config(config, model)
    wants_text, wants_image = _modalities(config, model)
    thinking = config.get("thinking_config") or {}
    everything = [*contents, parsed.get("system_instruction") or {}]
    return Order(
        model=model,
        prompt=_prompt(contents),
        prompt_text_tokens=sum(tokens_of(part.get("text", "")) for part in _parts(everything)),
        images=_images(contents, model),
        seed=config.get("seed"),
        response_type=_response_type(config),
        json_schema=_json_schema(config),
        max_tokens=config.get("max_output_tokens"),
        stop_sequences=config.get("stop_sequences") or [],
        candidate_count=config.get("candidate_count") or 1,
        thinks=model.thinks or _asked_to_think(thinking),
        include_thoughts=bool(thinking.get("include_thoughts")),
        wants_text=wants_text,
        wants_image=wants_image,
        ratio=image_config.get("aspect_ratio", ""),
        size=image_config.get("image_size") or "1K",
        media_type=(image_config.get("image_output_options") or {}).get("mime_type") or model.media_type,
    )


def _parts(contents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [part for content in contents for part in content.get("parts") or []]


def _check_contents(contents: list[dict[str, Any]]) -> None:
    if not contents:
        raise invalid_argument(
            "* GenerateContentRequest.contents: contents is not specified\n",
            "contents",
            "contents is not specified",
        )
    for at, content in enumerate(contents):
        if content.get("role", "user") not in ("user", "model", "function", "tool", ""):
            raise invalid_argument("Please use a valid role: user, model.", f"contents[{at}].role")
        if not content.get("parts"):
            field = f"contents[{at}].parts"
            raise invalid_argument(
                f"* GenerateContentRequest.{field}: contents.parts must not be empty.\n",
                field,
                "contents.parts must not be empty.",
            )
        for number, part in enumerate(content["parts"]):
            if not any(name not in ("thought", "thought_signature", "part_metadata") for name in part):
                raise invalid_argument(
                    "Unable to submit request because it must have a text parameter or another data field: "
                    f"contents[{at}].parts[{number}]: required oneof field 'data' must have one initialized field",
                    f"contents[{at}].parts[{number}].data",
                )
    if not any(part.get("text") or part.get("inline_data") for part in _parts(contents)):
        raise invalid_argument("Unable to submit request because it must have a text parameter.", "contents")


def _prompt(contents: list[dict[str, Any]]) -> str:
    turns = [content for content in contents if content.get("role", "user") != "model"] or contents
    return "\n".join(part["text"] for part in turns[-1].get("parts") or [] if part.get("text"))


def _images(contents: list[dict[str, Any]], model: Model) -> tuple[tuple[str, bytes], ...]:
    blobs = [part["inline_data"] for part in _parts(contents) if "inline_data" in part]
    allowed = INPUT_MEDIA_TYPES if model.kind == "image" else _TEXT_INPUT_TYPES
    found: list[tuple[str, bytes]] = []
    for blob in blobs:
        media_type, data = blob.get("mime_type", ""), blob.get("data", b"")
        if media_type not in allowed:
            raise invalid_argument(f"Unsupported MIME type: {media_type}")
        if not data:
            raise invalid_argument("Unable to process input image. Please retry or report in the forum.")
        if media_type in INPUT_MEDIA_TYPES:
            if len(data) > MAX_INPUT_IMAGE_BYTES:
                raise invalid_argument(f"Input image is larger than {MAX_INPUT_IMAGE_BYTES} bytes.")
            found.append((media_type, data))
    if model.kind == "image" and len(found) > MAX_INPUT_IMAGES:
        raise invalid_argument(
            f"Too many input images: {len(found)}. The model takes {MAX_INPUT_IMAGES} at most."
        )
    return tuple(found)


def _check_numbers(config: dict[str, Any]) -> None:
    def between(name: str, low: float, high: float) -> None:
        value = config.get(name)
        if value is not None and not low <= value <= high:
            text = f"{name} must be in the range [{low:g}, {high:g}]."
            raise invalid_argument(
                f"* GenerateContentRequest.generation_config.{name}: {text}\n",
                f"generation_config.{name}",
                text,
            )

    between("temperature", 0, 2)
    between("top_p", 0, 1)
    between("top_k", 0, 1_000_000)
    between("candidate_count", 1, 8)
    between("max_output_tokens", 1, 2**31 - 1)
    between("seed", -(2**31), 2**31 - 1)
    if len(config.get("stop_sequences") or []) > 5:
        raise invalid_argument(
            "stop_sequences must have at most 5 entries.", "generation_config.stop_sequences"
        )


def _modalities(config: dict[str, Any], model: Model) -> tuple[bool, bool]:
    """(wants text, wants image)."""
    asked = [name for name in config.get("response_modalities") or [] if name != "MODALITY_UNSPECIFIED"]
    if not asked:
        return True, model.kind == "image"
    if "AUDIO" in asked or ("IMAGE" in asked and model.kind != "image"):
        kinds = ", ".join(name.lower() for name in asked)
        raise invalid_argument(
            f"The requested combination of response modalities ({kinds}) is not supported by the model."
        )
    if model.kind == "image" and (config.get("candidate_count") or 1) > 1:
        raise invalid_argument("Multiple candidates is not enabled for this model")
    return "TEXT" in asked, "IMAGE" in asked


def _image_config(config: dict[str, Any], model: Model) -> dict[str, Any]:
    image_config: dict[str, Any] = config.get("image_config") or {}
    if image_config and model.kind != "image":
        raise invalid_argument(f"Image config is not supported for the model {model.id}.")
    _one_of(image_config, "aspect_ratio", tuple(DIMENSIONS_1K))
    _one_of(image_config, "image_size", SIZES)
    _one_of(image_config.get("image_output_options") or {}, "mime_type", ("image/png", "image/jpeg"))
    return image_config


def _one_of(config: dict[str, Any], name: str, allowed: tuple[str, ...]) -> None:
    value = config.get(name)
    if value and value not in allowed:
        raise invalid_argument(
            f"{name} must be one of the following values: {', '.join(allowed)}. Got: {value}.",
            f"generation_config.image_config.{name}",
        )


def _response_type(config: dict[str, Any]) -> str:
    given = config.get("response_mime_type") or PLAIN_TYPE
    if given not in (JSON_TYPE, ENUM_TYPE, PLAIN_TYPE):
        raise invalid_argument(
            "* GenerateContentRequest.generation_config.response_mime_type: allowed mimetypes are `text/plain`, "
            "`application/json`, `application/xml`, `application/yaml` and `text/x.enum`.\n",
            "generation_config.response_mime_type",
        )
    return str(given)


def _json_schema(config: dict[str, Any]) -> dict[str, Any] | None:
    plain = config.get("response_json_schema") or config.get("_response_json_schema")
    if plain is None and "response_schema" not in config:
        return None
    if _response_type(config) == PLAIN_TYPE:
        raise _needs_json()
    if plain is None:
        return schema.from_openapi(config["response_schema"])
    if not isinstance(plain, dict):
        raise invalid_argument(
            "response_json_schema must be an object.", "generation_config.response_json_schema"
        )
    return plain


def _needs_json() -> GoogleError:
    return invalid_argument(
        "Function calling config is set without function_declarations, or response_schema is set "
        "with a response mime type other than 'application/json' or 'text/x.enum'.",
        "generation_config.response_schema",
    )


def _asked_to_think(thinking: dict[str, Any]) -> bool:
    if thinking.get("thinking_level") in ("LOW", "MEDIUM", "HIGH"):
        return True
    return (thinking.get("thinking_budget") or 0) != 0 or bool(thinking.get("include_thoughts"))


def seed_of(prompt: str, seed: int) -> int:
    """One number from both, the same in every process."""
    return int.from_bytes(hashlib.sha256(f"{seed}\0{prompt}".encode()).digest()[:8], "big")
