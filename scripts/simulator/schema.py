"""JSON that satisfies a schema: JSON Schema, or the OpenAPI subset that responseSchema uses."""

import random
from typing import Any, cast

from .pattern import matching_string

JsonSchema = dict[str, Any]

_MAX_DEPTH = 12
_FORMATS = {
    "date-time": "2026-11-02T09:30:00Z",
    "date": "2026-11-02",
    "time": "09:30:00Z",
    "duration": "PT5M",
    "email": "simulated@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/simulated",
    "uuid": "00000000-0000-4000-8000-000000000000",
}
#: The fields of the wire's Schema message whose JSON Schema name differs from their snake_case name.
_CAMEL = {
    "any_of": "anyOf",
    "max_items": "maxItems",
    "min_items": "minItems",
    "max_length": "maxLength",
    "min_length": "minLength",
    "max_properties": "maxProperties",
    "min_properties": "minProperties",
    "additional_properties": "additionalProperties",
}


def from_openapi(schema: JsonSchema) -> JsonSchema:
    """The wire's Schema message (snake_case names, upper-case types) as JSON Schema."""
    out: JsonSchema = {_CAMEL.get(name, name): value for name, value in schema.items()}
    if "type" in out:
        out["type"] = str(out["type"]).lower()
        if out["type"] == "type_unspecified":
            del out["type"]
    if "properties" in out:
        out["properties"] = {name: from_openapi(value) for name, value in out["properties"].items()}
    if "items" in out:
        out["items"] = from_openapi(out["items"])
    if "anyOf" in out:
        out["anyOf"] = [from_openapi(value) for value in out["anyOf"]]
    return out


def sample(schema: JsonSchema, rng: random.Random, hint: str = "text") -> Any:
    """A value that satisfies the schema. `hint` names what a free string is about."""
    return _Sampler(schema, rng).value(schema, hint, 0)


class _Sampler:
    def __init__(self, root: JsonSchema, rng: random.Random) -> None:
        self._root = root
        self._rng = rng

    def value(self, schema: Any, hint: str, depth: int) -> Any:
        schema = self._resolved(schema)
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            return self._rng.choice(schema["enum"])
        kind = self._kind(schema)
        if kind == "object":
            return self._object(schema, depth)
        if kind == "array":
            return self._array(schema, hint, depth)
        if kind in ("integer", "number"):
            return self._number(schema, whole=kind == "integer")
        if kind == "boolean":
            return self._rng.random() < 0.5
        return None if kind == "null" else self._string(schema, hint)

    def _resolved(self, schema: Any) -> JsonSchema:
        """Follow $ref, merge allOf, choose one of anyOf and oneOf."""
        if not isinstance(schema, dict):
            return {}
        for _ in range(20):
            if "$ref" in schema:
                schema = {**self._target(str(schema["$ref"])), **_without(schema, "$ref")}
            elif "allOf" in schema:
                parts = [self._resolved(part) for part in schema["allOf"]]
                schema = _merged([_without(schema, "allOf"), *parts])
            elif schema.get("anyOf") or schema.get("oneOf"):
                key = "anyOf" if schema.get("anyOf") else "oneOf"
                schema = _merged([_without(schema, key), self._resolved(schema[key][0])])
            else:
                break
        else:
            return {}
        return cast("JsonSchema", schema)

    def _target(self, ref: str) -> JsonSchema:
        node: Any = self._root
        for step in ref.removeprefix("#").strip("/").split("/"):
            if step:
                node = (
                    node.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(node, dict) else None
                )
        return node if isinstance(node, dict) else {}

    def _kind(self, schema: JsonSchema) -> str:
        kind = schema.get("type")
        if isinstance(kind, list):
            kind = next((one for one in kind if one != "null"), "null")
        if isinstance(kind, str):
            return kind
        if "properties" in schema or "required" in schema:
            return "object"
        return "array" if "items" in schema or "prefixItems" in schema else "string"

    def _object(self, schema: JsonSchema, depth: int) -> dict[str, Any]:
        properties: dict[str, Any] = schema.get("properties") or {}
        required = list(schema.get("required") or ())
        names = (
            list(properties) if depth < _MAX_DEPTH // 2 else [name for name in properties if name in required]
        )
        names += [name for name in required if name not in names]
        limit = _whole(schema.get("maxProperties"))
        if limit is not None and len(names) > limit:
            names = [name for name in names if name in required][:limit]
        value = {name: self._child(properties.get(name, {}), name, depth) for name in names}
        extra = schema.get("additionalProperties")
        while len(value) < (_whole(schema.get("minProperties")) or 0):
            name = f"key_{len(value) + 1}"
            value[name] = self._child(extra if isinstance(extra, dict) else {}, name, depth)
        return value

    def _child(self, schema: Any, hint: str, depth: int) -> Any:
        return self.value(schema, hint, depth + 1) if depth < _MAX_DEPTH else None

    def _array(self, schema: JsonSchema, hint: str, depth: int) -> list[Any]:
        fixed = list(schema.get("prefixItems") or ())
        least = _whole(schema.get("minItems")) or 0
        most = _whole(schema.get("maxItems"))
        items = schema.get("items")
        count = max(least, 0 if depth >= _MAX_DEPTH // 2 else max(2, len(fixed)))
        if most is not None:
            count = min(count, most)
        if items is False:
            count = min(count, len(fixed))
        value: list[Any] = []
        for at in range(count):
            member = self._child(fixed[at] if at < len(fixed) else items, f"{hint} {at + 1}", depth)
            if schema.get("uniqueItems") and member in value:
                member = self._another(items, hint, depth, value)
                if member is None:
                    break
            value.append(member)
        return value

    def _another(self, items: Any, hint: str, depth: int, known: list[Any]) -> Any:
        """A member that the array does not hold yet, or None."""
        for attempt in range(50):
            member = self._child(items, f"{hint} {attempt}", depth)
            if member not in known:
                return member
        return None

    def _number(self, schema: JsonSchema, whole: bool) -> float | int:
        step = schema.get("multipleOf") or (1 if whole else 0.01)
        low, high = _bound(schema, "inimum", 1, step), _bound(schema, "aximum", -1, step)
        if low is None:
            low = 0 if high is None else min(0, high - 100 * step)
        if high is None:
            high = low + 100 * step
        first = -(-low // step)
        last = max(first, high // step)
        value = round((first + self._rng.randint(0, int(last - first))) * step, 9)
        return int(value) if whole else min(max(value, low), high)

    def _string(self, schema: JsonSchema, hint: str) -> str:
        least, most = _whole(schema.get("minLength")) or 0, _whole(schema.get("maxLength"))
        if schema.get("pattern"):
            found = matching_string(str(schema["pattern"]), least, most, self._rng)
            if found is not None:
                return found
        text = _FORMATS.get(str(schema.get("format"))) or f"simulated {hint.replace('_', ' ')}"
        while len(text) < least:
            text += " simulated"[: max(1, least - len(text))]
        return text if most is None else text[:most]


def _without(schema: JsonSchema, key: str) -> JsonSchema:
    return {name: value for name, value in schema.items() if name != key}


def _merged(parts: list[JsonSchema]) -> JsonSchema:
    out: JsonSchema = {}
    for part in parts:
        for name, value in part.items():
            if name == "properties":
                out[name] = {**out.get(name, {}), **value}
            elif name == "required":
                out[name] = [*out.get(name, ()), *value]
            else:
                out[name] = value
    return out


def _whole(value: Any) -> int | None:
    """A limit; the wire's int64 fields arrive as strings."""
    return None if value is None else int(value)


def _bound(schema: JsonSchema, name: str, inward: int, step: float) -> float | None:
    """The inclusive bound from minimum or exclusiveMinimum (likewise maximum), whichever is tighter."""
    plain, exclusive = schema.get("m" + name), schema.get("exclusiveM" + name)
    bounds = [float(plain)] if plain is not None else []
    if isinstance(exclusive, (int, float)) and not isinstance(exclusive, bool):
        bounds.append(float(exclusive) + inward * step)
    return (max(bounds) if inward > 0 else min(bounds)) if bounds else None
