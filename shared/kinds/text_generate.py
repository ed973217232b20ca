"""``text.generate``: a prompt or a conversation in, text or JSON out."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Any, ClassVar, Literal

import orjson
from pydantic import Field, model_validator

from shared.errors import FieldError
from shared.fields import empty
from shared.kinds.base import Accepted, InputRejected, KindInput, StoredImage, Whole, not_allowed
from shared.providers.base import Generation, ImageBytes, Message, TextRequest
from shared.providers.catalog import ModelSpec, TextCapabilities

_MAX_SCHEMA_BYTES = 100_000
_MAX_SCHEMA_DEPTH = 32
#: Objects and arrays in a schema. Checking costs 0.15 ms for each; providers take far fewer.
_MAX_SCHEMA_PARTS = 500


class ChatMessage(KindInput):
    """One turn; the last one must be the user's."""

    role: Literal["user", "model"]
    text: Annotated[str, Field(min_length=1)]


class TextInput(KindInput):
    """Exactly one of ``prompt`` and ``messages``."""

    prompt: Annotated[str | None, Field(description="The request, as one text.")] = None
    messages: Annotated[
        list[ChatMessage] | None, Field(min_length=1, max_length=1000, description="A conversation so far.")
    ] = None
    system: Annotated[
        str | None, Field(min_length=1, description="Instructions that stand above the prompt.")
    ] = None
    response_schema: Annotated[
        dict[str, Any] | None,
        Field(description="JSON Schema (2020-12) of the wanted answer; the result then has `json`."),
    ] = None
    max_output_tokens: Annotated[Whole | None, Field(ge=1)] = None
    temperature: Annotated[float | None, Field(ge=0, le=2)] = None
    top_p: Annotated[float | None, Field(ge=0, le=1)] = None
    top_k: Annotated[Whole | None, Field(ge=1)] = None
    seed: Annotated[Whole | None, Field(ge=0, le=2**31 - 1)] = None
    stop: Annotated[list[Annotated[str, Field(min_length=1, max_length=200)]], Field(max_length=16)] = empty(
        list
    )
    thinking_level: Annotated[
        str | None, Field(description="How much the model may think; see the model's capabilities.")
    ] = None

    @model_validator(mode="after")
    def _one_of_prompt_and_messages(self) -> TextInput:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give exactly one of prompt and messages")
        if self.messages and self.messages[-1].role != "user":
            raise ValueError("the last of messages must have the role user")
        return self


class TextGenerate:
    name: ClassVar[str] = "text.generate"
    title: ClassVar[str] = "Generate text"
    queue: ClassVar[str] = "text"
    default_model: ClassVar[str] = "gemini-flash"
    input_model: ClassVar[type[KindInput]] = TextInput
    example: ClassVar[dict[str, Any]] = {
        "prompt": "Write a haiku about a plantain.",
        "max_output_tokens": 200,
    }

    def accept(self, value: Any, model: ModelSpec, *, max_prompt_chars: int) -> Accepted:
        parsed = TextInput.model_validate(value)
        assert model.text is not None, f"{model.alias} is not a text model"
        errors = [*_prompt_errors(parsed, max_prompt_chars), *_capability_errors(parsed, model, model.text)]
        if errors:
            raise InputRejected(errors)
        stored = parsed.model_dump(exclude_none=True, exclude_defaults=True)
        return Accepted(stored=stored, images=(), warnings=_take_ignored(stored, model, model.text))

    def to_request(self, stored: dict[str, Any], images: Sequence[ImageBytes]) -> TextRequest:  # noqa: ARG002
        rest = {name: value for name, value in stored.items() if name not in {"prompt", "messages"}}
        turns = stored.get("messages") or [{"role": "user", "text": stored["prompt"]}]
        return TextRequest(messages=[Message(**turn) for turn in turns], **rest)

    def result(
        self,
        stored: dict[str, Any],
        generation: Generation,
        images: Sequence[StoredImage],  # noqa: ARG002
    ) -> dict[str, Any]:
        answer: dict[str, Any] = {"text": generation.text or "", "finish_reason": generation.finish_reason}
        if "response_schema" in stored:
            # An answer cut off by its token limit stays text; finish_reason says so.
            with suppress(orjson.JSONDecodeError):
                answer["json"] = orjson.loads(generation.text or "")
        return answer


def _prompt_errors(parsed: TextInput, limit: int) -> list[FieldError]:
    if parsed.prompt is not None and not parsed.prompt.strip():
        return [FieldError("/prompt", "empty", "is empty; write what should be generated")]
    if parsed.prompt is not None and parsed.system is None and len(parsed.prompt) <= limit:
        return []  # nearly always
    blank = [
        FieldError(
            f"/messages/{position}/text", "empty", "is empty; write what was said, or leave the turn out"
        )
        for position, turn in enumerate(parsed.messages or ())
        if not turn.text.strip()
    ]
    if parsed.system is not None and not parsed.system.strip():
        blank.append(FieldError("/system", "empty", "is empty; write instructions, or leave it out"))
    if blank:
        return blank
    total = (
        len(parsed.prompt or "")
        + len(parsed.system or "")
        + sum(len(turn.text) for turn in parsed.messages or ())
    )
    if total > limit:
        pointer = "/prompt" if parsed.prompt else "/messages"
        return [FieldError(pointer, "too_long", f"has {total:,} characters; at most {limit:,} are allowed")]
    return []


def _capability_errors(parsed: TextInput, model: ModelSpec, can: TextCapabilities) -> list[FieldError]:
    errors = []
    if parsed.max_output_tokens and parsed.max_output_tokens > can.max_output_tokens:
        message = (
            f"{parsed.max_output_tokens} is more than {model.alias} gives; at most {can.max_output_tokens}"
        )
        errors.append(FieldError("/max_output_tokens", "too_large", message))
    if parsed.thinking_level and parsed.thinking_level not in can.thinking_levels:
        errors.append(not_allowed("/thinking_level", parsed.thinking_level, can.thinking_levels, model))
    if len(parsed.stop) > can.max_stop_sequences:
        message = f"has {len(parsed.stop)} entries; {model.alias} takes at most {can.max_stop_sequences}"
        errors.append(FieldError("/stop", "too_many", message))
    if parsed.seed is not None and not can.seed:
        errors.append(FieldError("/seed", "not_supported", f"{model.alias} takes no seed; leave it out"))
    if parsed.response_schema is not None:
        errors += _schema_errors(parsed.response_schema, model, can)
    return errors


def _schema_errors(schema: dict[str, Any], model: ModelSpec, can: TextCapabilities) -> list[FieldError]:
    pointer = "/response_schema"
    if not can.response_schema:
        return [
            FieldError(pointer, "not_supported", f"{model.alias} answers in plain text only; leave it out")
        ]
    depth, parts = _extent(schema)
    if depth > _MAX_SCHEMA_DEPTH:
        return [FieldError(pointer, "too_deep", f"is nested deeper than {_MAX_SCHEMA_DEPTH} levels")]
    if parts > _MAX_SCHEMA_PARTS:
        message = f"has more than {_MAX_SCHEMA_PARTS} objects and arrays"
        return [FieldError(pointer, "too_large", message)]
    size = len(orjson.dumps(schema))
    if size > _MAX_SCHEMA_BYTES:
        return [
            FieldError(pointer, "too_long", f"has {size:,} bytes; at most {_MAX_SCHEMA_BYTES:,} are allowed")
        ]
    # A sixth of a worker's start, which workers never need, and the API with the first schema that it is given.
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        where = "".join(f"/{part}" for part in error.absolute_path)
        return [
            FieldError(pointer + where, "invalid_schema", f"is not valid JSON Schema: {error.message[:300]}")
        ]
    return []


def _extent(value: Any) -> tuple[int, int]:
    """How deep a JSON value is nested and how many objects and arrays it has, as far as the limits.

    Found level by level: a hostile depth must not overflow the stack.
    """
    level, depth, parts = [value], 0, 0
    while depth <= _MAX_SCHEMA_DEPTH and parts <= _MAX_SCHEMA_PARTS:
        level = [item for item in level if isinstance(item, dict | list)]
        if not level:
            break
        depth += 1
        parts += len(level)
        level = [inner for item in level for inner in (item.values() if isinstance(item, dict) else item)]
    return depth, parts


def _take_ignored(stored: dict[str, Any], model: ModelSpec, can: TextCapabilities) -> list[dict[str, str]]:
    """Takes out what the model would ignore; the client is told, nothing is dropped in silence."""
    given = [name for name in can.ignored if stored.pop(name, None) is not None]
    if not given:
        return []
    return [
        {
            "pointer": f"/input/{name}",
            "code": "ignored",
            "message": f"{model.alias} has no {name} any more: it was not sent",
        }
        for name in given
    ]
