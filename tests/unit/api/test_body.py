from __future__ import annotations

import random
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api import body
from shared.errors import BadRequest, ValidationFailed

JSON = st.recursive(
    st.none() | st.integers(-5, 5) | st.text(alphabet='a\\",[{}]:é', max_size=12),
    lambda inner: (
        st.lists(inner, max_size=5) | st.dictionaries(st.text('b\\",[', max_size=3), inner, max_size=5)
    ),
    max_leaves=40,
)


def parts(value: Any) -> int:
    """Openings and commas of a value as JSON."""
    if not isinstance(value, list | dict):
        return 0
    inner = list(value.values() if isinstance(value, dict) else value)
    return 1 + max(0, len(inner) - 1) + sum(map(parts, inner))


@given(JSON, st.integers(1, 9))
def test_parts_are_counted_outside_of_strings(value: Any, size: int) -> None:
    found = parts(value)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(body, "_SLICE", size)
        assert not body.has_more_parts(orjson.dumps(value), found)
        if found:
            assert body.has_more_parts(orjson.dumps(value), found - 1)


def test_a_long_body_of_few_parts_is_counted_across_slices() -> None:
    generator = random.Random(1)
    prompt = "".join(generator.choice('\\",[{x') for _ in range(700_000))
    text = orjson.dumps({"input": {"prompt": prompt, "seed": 1}})
    assert not body.has_more_parts(text, 3)
    assert body.has_more_parts(text, 2)
    assert body.parse(text)["input"]["prompt"] == prompt


def test_too_many_parts_are_refused_before_they_are_made() -> None:
    def of(number: int) -> bytes:
        return b"[" + b",".join([b'"a"'] * number) + b"]"

    assert len(body.parse(of(body.MAX_PARTS))) == body.MAX_PARTS
    with pytest.raises(ValidationFailed):
        body.parse(of(body.MAX_PARTS + 1))


@pytest.mark.parametrize("text", [b"", b"{", b"nul", b"\xff", b'{"a":1}{', b"\\", b'"\\'])
def test_what_is_no_json_is_told(text: bytes) -> None:
    with pytest.raises(BadRequest):
        body.parse(text)
    assert body.has_more_parts(text * 5, 1_000) is False


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"b":'])
def test_levels_are_counted(opening: bytes) -> None:
    """What calls itself for each level, such as a merge patch, would end with the interpreter's own limit."""
    closing = {b"[": b"]", b'{"a":': b"}", b'[{"b":': b"}]"}[opening]
    each = opening.count(b"[") + opening.count(b"{")
    most = body.MAX_DEPTH // each
    body.parse(opening * most + b"1" + closing * most)
    body.parse(b"[" + b",".join([b"[]"] * 1000) + b"]")
    with pytest.raises(ValidationFailed) as caught:
        body.parse(opening * (most + 1) + b"1" + closing * (most + 1))
    assert caught.value.errors[0].code == "too_deep"
