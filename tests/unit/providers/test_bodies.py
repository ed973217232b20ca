from __future__ import annotations

import json
from typing import Any

import orjson
import pytest

from shared.providers.bodies import load

LONG = "QUJD" * 50_000


def restored(value: Any, cut: dict[str, memoryview]) -> Any:
    match value:
        case dict():
            return {name: restored(member, cut) for name, member in value.items()}
        case list():
            return [restored(member, cut) for member in value]
        case str() if value in cut:
            return bytes(cut[value]).decode()
    return value


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize(
    ("value", "cuts"),
    [
        (
            {
                "parts": [
                    {"inlineData": {"mimeType": "image/png", "data": LONG}},
                    {"text": "and"},
                    {"data": LONG + "D"},
                ]
            },
            2,
        ),
        ({"data": "short"}, 0),
        ({"data": {"data": LONG}, "other": LONG}, 1),
        ({"data": [LONG], "name": "data"}, 0),
        ({"text": '{"data": "' + LONG + '"}', "data": None}, 0),
        ({"data": LONG + "\\" + LONG}, 0),
        ({"data": LONG + '"' + LONG}, 0),
        ([], 0),
    ],
)
def test_nothing_is_lost(value: Any, cuts: int, indent: int | None) -> None:
    parsed, cut = load(json.dumps(value, indent=indent).encode(), "data")

    assert len(cut) == cuts
    assert restored(parsed, cut) == value


@pytest.mark.parametrize(
    "body", [b'{"data": "' + LONG.encode(), b'{"data": "' + LONG.encode() + b'"', b'{"data":', b""]
)
def test_broken_json_raises(body: bytes) -> None:
    with pytest.raises(orjson.JSONDecodeError):
        load(body, "data")
