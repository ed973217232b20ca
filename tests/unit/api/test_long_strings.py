"""Long strings of base64 are cut out, and nothing is different afterwards."""

from __future__ import annotations

import base64
import random
import threading
import time
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from api import long_strings

_LONG = 40

TEXTS = st.one_of(
    st.text(alphabet="Aa0+/=", min_size=30, max_size=60),
    st.text(alphabet='A\\"\n:, é[{', max_size=60),
    st.text(alphabet="Aa0+/=,;", min_size=30, max_size=60).map("data:image/png;base64,{}".format),
)
JSON = st.recursive(
    TEXTS | st.integers(0, 9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_strings, "_LONG", _LONG)
    monkeypatch.setattr(long_strings, "_SLICE", 7)


@pytest.mark.usefixtures("_short")
@given(JSON, st.booleans())
@example("A" * 50, False)
@example({"A" * 50: ["A" * 50, {"x": "A" * 50}], "y": "A" * 50}, True)
def test_it_is_what_the_parser_says(value: Any, spread: bool) -> None:
    body = orjson.dumps(value, option=orjson.OPT_INDENT_2 if spread else None)
    assert long_strings.loads(body) == orjson.loads(body)


@given(JSON, st.integers(0, 400), st.sampled_from([b'"', b"\\", b"\n", b"A", b"", b",", b'"A"']))
def test_what_is_no_json_is_refused_in_the_same_words(value: Any, at: int, foreign: bytes) -> None:
    text = orjson.dumps(value)
    at = min(at, len(text))
    body = text[:at] + foreign + text[at + 1 :]
    try:
        expected = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        with pytest.raises(orjson.JSONDecodeError) as raised:
            long_strings.loads(body)
        assert str(raised.value) == str(error)
    else:
        assert long_strings.loads(body) == expected


def test_data_urls_are_cut_out_as_well() -> None:
    value = [f"data:image/png;base64,{'A' * 60}", f'data:"\\,{"A" * 60}', f"data:é,{'A' * 60}"]
    body = orjson.dumps(value)

    assert len(long_strings._long_strings(body)) == 1
    assert long_strings.loads(body) == value


def test_a_body_of_many_quotes_is_not_walked_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_strings, "_QUOTES_AT_MOST", 8)
    few, many = [["A" * 50] * count for count in (3, 5)]
    assert len(long_strings._long_strings(orjson.dumps(few))) == 3
    assert long_strings._long_strings(orjson.dumps(many)) == []
    assert long_strings.loads(orjson.dumps(many)) == many


def test_no_step_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three pictures of 6.6 MB. What the parser alone takes in one step is the measure: this machine may be busy."""
    monkeypatch.undo()
    pictures = [base64.b64encode(random.Random(seed).randbytes(6_600_000)).decode() for seed in range(3)]
    body = orjson.dumps({"input": {"input_images": [{"data": data} for data in pictures]}})
    assert len(long_strings._long_strings(body)) == 3

    def longest_step(parse: Any) -> float:
        return min(_longest_gap(lambda: parse(body)) for _ in range(5))

    assert longest_step(long_strings.loads) < longest_step(orjson.loads) * 0.7


def _longest_gap(work: Any) -> float:
    """Seconds at most in which another thread did not come to its turn."""
    worker = threading.Thread(target=work)
    longest, last = 0.0, time.perf_counter()
    worker.start()
    while worker.is_alive():
        time.sleep(0.0005)
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    return longest
