"""Reading ``Prefer``."""

from __future__ import annotations

import pytest

from api.prefer import applied, wait_seconds


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("", None),
        ("wait=10", 10),
        ("respond-async, wait=10", 10),
        ("WAIT = 5; foo=bar, return=minimal", 5),
        ('wait="7"', 7),
        ("wait=0", 0),
        ("wait=61", 60),
        ("wait=999999999", 60),
        ("wait=5, wait=9", 5),
        ("wait=soon", None),
        ("wait=-1", None),
        ("wait=1.5", None),
        ("wait=٣", None),
        ("await=3", None),
        ("wait=9999999999", None),
    ],
)
def test_wait_is_read_as_the_standard_has_it(header: str | None, seconds: int | None) -> None:
    assert wait_seconds(header) == seconds


def test_what_was_understood_is_said() -> None:
    assert applied(None) == {}
    assert applied(60) == {"Preference-Applied": "wait=60"}
