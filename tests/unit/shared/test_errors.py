from __future__ import annotations

from typing import Literal

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError

from shared.errors import field_errors, pointer, shown


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid")
    colour: Literal["green", "yellow"]
    items: list[int] = []


def errors_of(value: object) -> dict[str, dict[str, object]]:
    with pytest.raises(ValidationError) as caught:
        Model.model_validate(value)
    return {error.pointer: error.as_json() for error in field_errors(caught.value, "/input")}


def test_pointers_codes_and_what_is_allowed() -> None:
    errors = errors_of({"colour": "red", "items": [1, "x"], "a/b~c": 1})
    assert errors["/input/colour"]["allowed"] == ["green", "yellow"]
    assert errors["/input/items/1"]["code"] == "int_parsing"
    assert errors["/input/a~1b~0c"]["message"] == "is not a field here; look for a misspelling"


def test_what_is_missing_and_what_is_no_object() -> None:
    assert errors_of({})["/input/colour"]["message"] == "is required"
    assert errors_of([])["/input"]["message"] == "must be a JSON object"


def test_no_value_is_repeated_and_no_name_is_long() -> None:
    errors = errors_of({"colour": "s3cret", "x" * 5000: "s3cret"})
    assert "s3cret" not in str(errors)
    assert len(str(errors)) < 1000


@pytest.mark.parametrize(
    ("value", "text"),
    [("a", "'a'"), ("x" * 80, repr("x" * 80)), (5, "5"), (None, "None"), ("it's", '"it\'s"')],
)
def test_short_values_are_shown_whole(value: object, text: str) -> None:
    assert shown(value) == text


@pytest.mark.parametrize("value", ["x" * 81, "x" * 10_000_000, "\u0000" * 80, ["x"] * 1000])
def test_long_values_are_cut(value: object) -> None:
    assert len(shown(value)) <= 81
    assert shown(value).endswith("…")


def test_pointer_of_nothing_is_the_whole() -> None:
    assert pointer(()) == ""
