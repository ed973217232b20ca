"""Types that fields of requests have in common."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Field
from pydantic_core import PydanticCustomError

Item = TypeVar("Item")

_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)?", re.ASCII)


def _plausible(moment: datetime) -> datetime:
    """PostgreSQL knows years that Python does not, so what lies at the edge would not come back."""
    if not 2000 <= moment.year <= 2200:
        raise ValueError("must lie between the years 2000 and 2200")
    return moment


def _rfc3339(value: Any) -> Any:
    """A number would be taken for seconds since 1970, and a day for its midnight."""
    if not isinstance(value, str) or not _RFC3339.fullmatch(value):
        raise ValueError("must be a time as in RFC 3339, such as 2030-01-31T12:00:00Z")
    return value


def storable(value: str) -> str:
    if "\0" in value:
        raise PydanticCustomError("null_character", "holds the character U+0000, which cannot be stored")
    return value


def empty(kind: type[list[Any] | dict[str, Any]]) -> Any:
    """The default of a field that is empty unless it is given.

    Made anew each time: a list that stands there as the default is copied, which takes five times as long.
    """
    return Field(default_factory=kind, json_schema_extra={"default": kind()})


def each_once(items: list[Item]) -> list[Item]:
    return list(dict.fromkeys(items))


Moment = Annotated[AwareDatetime, Field(strict=False), AfterValidator(_plausible), BeforeValidator(_rfc3339)]
