from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shared.access.keys import hash_of, new_key, prefix_in, prefix_of


def test_keys_differ_and_have_their_form() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(prefix_of(key) == key[4:12] for key in keys)
    assert len(hash_of(new_key())) == 32


@given(st.text())
def test_no_other_text_is_a_key(text: str) -> None:
    assert prefix_of(text) is None
    assert prefix_of(new_key() + (text or "\n")) is None


def test_a_key_is_found_by_its_prefix_in_every_form() -> None:
    key = new_key()
    assert prefix_in(key) == prefix_in(key[:12]) == prefix_in(key[4:12]) == key[4:12]
    assert prefix_in(key[:13]) is prefix_in(key[:11]) is prefix_in(key + "x") is prefix_in("") is None
