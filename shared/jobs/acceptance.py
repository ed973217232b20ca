"""Whether a job can be taken: its kind, its model and its input."""

from __future__ import annotations

import asyncio
from typing import Any

from pydantic import ValidationError

from shared.config import Settings
from shared.errors import FieldError, ValidationFailed, field_errors, shown
from shared.jobs.schemas import JobSubmit
from shared.kinds import KINDS
from shared.kinds.base import Accepted, InputRejected, Kind
from shared.providers.catalog import ModelSpec, catalog, models_for

#: Inputs with more bytes than this are checked on a thread: decoding pictures takes time.
_INLINE_BYTES = 64 * 1024


def resolve(job: JobSubmit) -> tuple[Kind, ModelSpec]:
    """The kind and model that a submit asks for.

    Raises:
        ValidationFailed: unknown, or not made for each other; the error lists what is possible.
    """
    kind = KINDS.get(job.kind)
    if kind is None:
        message = f"{shown(job.kind)} is no kind of job; use one of: {', '.join(KINDS)}"
        raise ValidationFailed(
            "Unknown kind.",
            code="unknown_kind",
            errors=[FieldError("/kind", "not_allowed", message, list(KINDS))],
        )
    model = catalog().get(kind.default_model if job.model is None else job.model)
    if model is None or kind.name not in model.kinds:
        allowed = [entry.alias for entry in models_for(kind.name)]
        what = "is no model here" if model is None else f"does not do {kind.name}"
        message = f"{shown(job.model)} {what}; use one of: {', '.join(allowed)}"
        raise ValidationFailed(
            "Unknown model.",
            code="unknown_model",
            errors=[FieldError("/model", "not_allowed", message, allowed)],
        )
    return kind, model


def accept_stream(model: ModelSpec, settings: Settings) -> list[dict[str, str]]:
    """Warnings about a wish for the text as it is made.

    Raises:
        ValidationFailed: the model has none to tell.
    """
    if model.text is None or not model.text.stream:
        able = [entry.alias for entry in catalog().values() if entry.text is not None and entry.text.stream]
        what = "makes pictures, and those come whole" if model.image else "gives its text in one piece"
        message = f"{model.alias} {what}; leave it out, or use one of: {', '.join(able)}"
        raise ValidationFailed(
            f"The job is not possible with {model.alias}.",
            errors=[FieldError("/stream", "not_supported", message, [False])],
        )
    if settings.gemini_sdk == "google-genai":
        return []
    message = f"with GEMINI_SDK={settings.gemini_sdk} the text comes in one piece, at the end"
    return [{"pointer": "/stream", "code": "in_one_piece", "message": message}]


async def accept(kind: Kind, model: ModelSpec, value: dict[str, Any], *, max_prompt_chars: int) -> Accepted:
    """The input as it will be stored, with its pictures decoded.

    Raises:
        ValidationFailed: it does not fit the kind, or is not possible with the model.
    """
    try:
        if _is_small(value):
            return _checked(kind, model, value, max_prompt_chars)
        return await asyncio.to_thread(_checked, kind, model, value, max_prompt_chars)
    except ValidationError as error:
        raise ValidationFailed(
            f"The input does not fit {kind.name}; GET /api/v1/kinds has its schema.",
            errors=field_errors(error, "/input"),
        ) from None
    except InputRejected as error:
        errors = [FieldError(f"/input{e.pointer}", e.code, e.message, e.allowed) for e in error.errors]
        raise ValidationFailed(f"The input is not possible with {model.alias}.", errors=errors) from None


def _checked(kind: Kind, model: ModelSpec, value: dict[str, Any], max_prompt_chars: int) -> Accepted:
    _refuse_null_characters(value)
    return kind.accept(value, model, max_prompt_chars=max_prompt_chars)


def _refuse_null_characters(value: dict[str, Any]) -> None:
    """PostgreSQL's text holds every character but U+0000.

    Walked level by level: a hostile depth must not overflow the stack.
    """
    level: list[Any] = [value]
    while level:
        deeper: list[Any] = []
        for item in level:
            if isinstance(item, str):
                if "\0" in item:
                    raise InputRejected(
                        [
                            FieldError(
                                "", "null_character", "holds the character U+0000, which cannot be stored"
                            )
                        ]
                    )
            elif isinstance(item, dict):
                deeper += item.keys()
                deeper += item.values()
            elif isinstance(item, list):
                deeper += item
        level = deeper


def _is_small(value: dict[str, Any]) -> bool:
    """Whether checking it takes no time to speak of. It is not validated yet: anything may stand in it."""
    return len(value) < 50 and all(map(_is_light, value.values()))


def _is_light(item: Any) -> bool:
    match item:
        case str():
            return len(item) < _INLINE_BYTES
        case list():
            return len(item) < 50 and not any(
                isinstance(inner, list | dict) or (isinstance(inner, str) and len(inner) > 1000)
                for inner in item
            )
        case dict():
            return not item
        case _:
            return True
