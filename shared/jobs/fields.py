"""Types that fields of requests about jobs have in common."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

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


def to_come(moment: datetime) -> datetime:
    now = datetime.now(UTC)
    if moment <= now:
        raise PydanticCustomError(
            "in_the_past", "has passed: it is {now} here", {"now": f"{now:%Y-%m-%dT%H:%M:%SZ}"}
        )
    return moment


_DURATION = re.compile(
    r"P(?=\d|T\d)(?:(\d{1,9})W)?(?:(\d{1,9})D)?(?:T(?=\d)(?:(\d{1,9})H)?(?:(\d{1,9})M)?(?:(\d{1,9})S)?)?",
    re.ASCII,
)
#: Seconds in a week, a day, an hour, a minute, a second.
_UNITS = (604_800, 86_400, 3600, 60, 1)
_SHORTEST_KEEP, _LONGEST_KEEP = 60, 3650 * 24 * 3600


def _seconds(value: Any) -> Any:
    """Years and months are refused: they have no length."""
    if not isinstance(value, str):
        return value
    found = _DURATION.fullmatch(value)
    if found is None:
        raise ValueError(
            "must be seconds, or a duration as in ISO 8601 of weeks to seconds, such as P7D or PT12H"
        )
    return sum(int(number or 0) * unit for number, unit in zip(found.groups(), _UNITS, strict=True))


Duration = Annotated[
    float,
    BeforeValidator(_seconds),
    Field(ge=_SHORTEST_KEEP, le=_LONGEST_KEEP),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "minimum": _SHORTEST_KEEP, "maximum": _LONGEST_KEEP},
                {"type": "string", "format": "duration"},
            ]
        }
    ),
]


def storable(value: str) -> str:
    if "\0" in value:
        raise PydanticCustomError("null_character", "holds the character U+0000, which cannot be stored")
    return value


def each_once(tags: list[str]) -> list[str]:
    return list(dict.fromkeys(tags))


#: What stands between the parts of a name: `env:prod`, `team/a`, `2030-01`.
_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.:/@+-]*$"
Tag = Annotated[str, Field(min_length=1, max_length=64, pattern=_NAME)]
MetadataKey = Annotated[str, Field(min_length=1, max_length=64, pattern=_NAME)]
MetadataValue = Annotated[str, Field(max_length=256), AfterValidator(storable)]

Moment = Annotated[AwareDatetime, Field(strict=False), AfterValidator(_plausible), BeforeValidator(_rfc3339)]
