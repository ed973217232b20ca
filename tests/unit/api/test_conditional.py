from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.conditional import byte_range, matches
from shared.errors import RangeNotSatisfiable


@pytest.mark.parametrize("header", ['"a"', 'W/"a"', '"x", "a"', '"x",W/"a"', "*", " * "])
def test_if_none_match_finds_the_etag(header: str) -> None:
    assert matches(header, '"a"')


@pytest.mark.parametrize("header", [None, "", '"b"', "a", '"a', '"A"', '"xa"'])
def test_if_none_match_of_another(header: str | None) -> None:
    assert not matches(header, '"a"')


@given(st.integers(0, 30), st.integers(0, 30), st.integers(1, 20))
def test_a_range_is_what_slicing_says(first: int, last: int, size: int) -> None:
    data = bytes(range(size))
    if last < first:
        assert byte_range(f"bytes={first}-{last}", None, "", size) is None
    elif first >= size:
        with pytest.raises(RangeNotSatisfiable):
            byte_range(f"bytes={first}-{last}", None, "", size)
    else:
        found = byte_range(f"bytes={first}-{last}", None, "", size)
        assert found is not None
        assert data[slice(*found)] == data[first : last + 1]


@given(st.integers(1, 30), st.integers(1, 20))
def test_a_suffix_is_the_end(length: int, size: int) -> None:
    data = bytes(range(size))
    found = byte_range(f"bytes=-{length}", None, "", size)
    assert found is not None
    assert data[slice(*found)] == data[-length:]


@given(st.text(alphabet="0123456789-,= x\u0661", max_size=24))
def test_no_header_breaks_it(header: str) -> None:
    try:
        found = byte_range(f"bytes={header}", None, "", 10)
    except RangeNotSatisfiable:
        return
    assert found is None or 0 <= found[0] < found[1] <= 10
