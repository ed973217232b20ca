"""The request messages of the Gemini REST form, and a parser as strict as Google's.

Field names are accepted in camelCase and snake_case, enums as names and numbers, numbers also as strings (proto3
JSON). The parser gives snake_case names and enum names; whatever it does not know is a 400 that says where.
"""

import base64
import binascii
import re
from typing import Any

from .errors import GoogleError, invalid_argument

#: Messages: field → type. "[T]" is a list, "{T}" a map; capital letters name a message, enum:X an enum.
MESSAGES: dict[str, dict[str, str]] = {
    "GenerateContentRequest": {
        "model": "str",
        "contents": "[Content]",
        "system_instruction": "Content",
        "tools": "[any]",
        "tool_config": "any",
        "safety_settings": "[SafetySetting]",
        "generation_config": "GenerationConfig",
        "cached_content": "str",
        "service_tier": "str",
        "store": "bool",
        "continuation_token": "str",
    },
    "Content": {"role": "str", "parts": "[Part]"},
    "Part": {
        "text": "str",
        "inline_data": "Blob",
        "file_data": "any",
        "thought": "bool",
        "thought_signature": "bytes",
        "function_call": "any",
        "function_response": "any",
        "executable_code": "any",
        "code_execution_result": "any",
        "video_metadata": "any",
        "media_resolution": "any",
        "part_metadata": "any",
    },
    "Blob": {"mime_type": "str", "data": "bytes", "display_name": "str"},
    "SafetySetting": {"category": "enum:HarmCategory", "threshold": "enum:HarmBlockThreshold"},
    "GenerationConfig": {
        "temperature": "number",
        "top_p": "number",
        "top_k": "int",
        "candidate_count": "int",
        "max_output_tokens": "int",
        "stop_sequences": "[str]",
        "seed": "int",
        "presence_penalty": "number",
        "frequency_penalty": "number",
        "response_logprobs": "bool",
        "logprobs": "int",
        "response_mime_type": "str",
        "response_schema": "Schema",
        "response_json_schema": "any",
        "_response_json_schema": "any",
        "response_modalities": "[enum:Modality]",
        "media_resolution": "enum:MediaResolution",
        "thinking_config": "ThinkingConfig",
        "image_config": "ImageConfig",
        "speech_config": "any",
        "enable_enhanced_civic_answers": "bool",
    },
    "ThinkingConfig": {
        "thinking_level": "enum:ThinkingLevel",
        "thinking_budget": "int",
        "include_thoughts": "bool",
    },
    "ImageConfig": {"aspect_ratio": "str", "image_size": "str", "image_output_options": "ImageOutputOptions"},
    "ImageOutputOptions": {"mime_type": "str", "compression_quality": "int"},
    "Schema": {
        "type": "enum:Type",
        "format": "str",
        "title": "str",
        "description": "str",
        "nullable": "bool",
        "enum": "[str]",
        "max_items": "int",
        "min_items": "int",
        "max_properties": "int",
        "min_properties": "int",
        "max_length": "int",
        "min_length": "int",
        "pattern": "str",
        "example": "any",
        "default": "any",
        "any_of": "[Schema]",
        "items": "Schema",
        "properties": "{Schema}",
        "property_ordering": "[str]",
        "required": "[str]",
        "minimum": "number",
        "maximum": "number",
        "additional_properties": "any",
    },
}

#: Enum names by their number.
ENUMS: dict[str, tuple[str, ...]] = {
    "HarmCategory": (
        "HARM_CATEGORY_UNSPECIFIED",
        "HARM_CATEGORY_DEROGATORY",
        "HARM_CATEGORY_TOXICITY",
        "HARM_CATEGORY_VIOLENCE",
        "HARM_CATEGORY_SEXUAL",
        "HARM_CATEGORY_MEDICAL",
        "HARM_CATEGORY_DANGEROUS",
        "HARM_CATEGORY_HARASSMENT",
        "HARM_CATEGORY_HATE_SPEECH",
        "HARM_CATEGORY_SEXUALLY_EXPLICIT",
        "HARM_CATEGORY_DANGEROUS_CONTENT",
        "HARM_CATEGORY_CIVIC_INTEGRITY",
    ),
    "HarmBlockThreshold": (
        "HARM_BLOCK_THRESHOLD_UNSPECIFIED",
        "BLOCK_LOW_AND_ABOVE",
        "BLOCK_MEDIUM_AND_ABOVE",
        "BLOCK_ONLY_HIGH",
        "BLOCK_NONE",
        "OFF",
    ),
    "Modality": ("MODALITY_UNSPECIFIED", "TEXT", "IMAGE", "AUDIO"),
    "MediaResolution": (
        "MEDIA_RESOLUTION_UNSPECIFIED",
        "MEDIA_RESOLUTION_LOW",
        "MEDIA_RESOLUTION_MEDIUM",
        "MEDIA_RESOLUTION_HIGH",
    ),
    "ThinkingLevel": ("THINKING_LEVEL_UNSPECIFIED", "LOW", "MEDIUM", "HIGH", "MINIMAL"),
    "Type": ("TYPE_UNSPECIFIED", "STRING", "NUMBER", "INTEGER", "BOOLEAN", "ARRAY", "OBJECT", "NULL"),
}

_CAPITAL = re.compile(r"(?<!^)[A-Z]")
_PROTO_TYPE = {"str": "TYPE_STRING", "int": "TYPE_INT32", "number": "TYPE_FLOAT", "bool": "TYPE_BOOL"}
_MAX_DEPTH = 64


def parse_request(body: Any) -> dict[str, Any]:
    """A generateContent body as snake_case names, enum names and bytes. Raises GoogleError (400)."""
    if not isinstance(body, dict):
        raise invalid_argument("Invalid JSON payload received. Root element must be a message.")
    return _message("GenerateContentRequest", body, "", 0)


def snake(name: str) -> str:
    """`inlineData` as `inline_data`; a snake_case name as it is."""
    return _CAPITAL.sub(lambda found: "_" + found.group().lower(), name)


def _message(kind: str, value: Any, path: str, depth: int) -> dict[str, Any]:
    if not isinstance(value, dict) or depth > _MAX_DEPTH:
        raise _wrong(path, "message", value)
    fields = MESSAGES[kind]
    parsed: dict[str, Any] = {}
    for given, member in value.items():
        name = snake(given)
        if name not in fields:
            where = f" at '{path}'" if path else ""
            description = f'Invalid JSON payload received. Unknown name "{given}"{where}: Cannot find field.'
            raise invalid_argument(description, path, description)
        if member is not None:
            parsed[name] = _value(fields[name], member, f"{path}.{name}" if path else name, depth + 1)
    return parsed


def _value(kind: str, value: Any, path: str, depth: int) -> Any:
    if kind == "any":
        return value
    if kind.startswith("["):
        # proto3 JSON lets one value stand for a list of one.
        members = value if isinstance(value, list) else [value]
        return [_value(kind[1:-1], member, f"{path}[{at}]", depth) for at, member in enumerate(members)]
    if kind.startswith("{"):
        if not isinstance(value, dict):
            raise _wrong(path, "map", value)
        return {name: _value(kind[1:-1], member, f"{path}.{name}", depth) for name, member in value.items()}
    if kind.startswith("enum:"):
        return _enum(kind[5:], value, path)
    if kind in MESSAGES:
        return _message(kind, value, path, depth)
    return _scalar(kind, value, path)


def _enum(name: str, value: Any, path: str) -> str:
    members = ENUMS[name]
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(members):
        return members[value]
    if isinstance(value, str) and value.upper() in members:
        return value.upper()
    raise _wrong(path, f"type.googleapis.com/google.ai.generativelanguage.v1beta.{name}", value)


def _scalar(kind: str, value: Any, path: str) -> Any:
    try:
        if kind == "bytes" and isinstance(value, str):
            return _decode(value)
        if kind == "str" and isinstance(value, str):
            return value
        if kind == "bool" and isinstance(value, bool):
            return value
        if kind == "int" and not isinstance(value, bool) and float(value) == int(float(value)):
            return int(float(value))
        if kind == "number" and not isinstance(value, bool):
            return float(value)
    except binascii.Error:
        raise _wrong(path, "TYPE_BYTES", value, "Base64 decoding failed for ") from None
    except (TypeError, ValueError, OverflowError):
        pass
    raise _wrong(path, _PROTO_TYPE.get(kind, "TYPE_BYTES"), value)


def _decode(text: str) -> bytes:
    """Base64, standard or URL-safe, with or without padding."""
    if "-" in text or "_" in text:
        text = text.replace("-", "+").replace("_", "/")
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)


def _wrong(path: str, kind: str, value: Any, note: str = "") -> GoogleError:
    shown = f'"{value[:60]}"' if isinstance(value, str) else str(value)[:60]
    description = f"Invalid value at '{path}' ({kind}), {note}{shown}"
    return invalid_argument(description, path, description)
