from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shared.access.keys import hash_of, new_key, prefix_of


def test_keys_differ_and_have_their_form() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(prefix_of(key) == key[4:12] for key in keys)
    assert len(hash_of(new_key())) == 32


@given(st.text())
def test_no_other_text_is_a_key(text: str) -> None:
    assert prefix_of(text) is None
    assert prefix_of(new_key() + (text or "\n")) is None
