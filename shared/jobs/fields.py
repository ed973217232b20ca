"""Types that fields of requests about jobs have in common."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from shared.fields import storable


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


#: What stands between the parts of a name: `env:prod`, `team/a`, `2030-01`.
_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.:/@+-]*$"
Tag = Annotated[str, Field(min_length=1, max_length=64, pattern=_NAME)]
MetadataKey = Annotated[str, Field(min_length=1, max_length=64, pattern=_NAME)]
MetadataValue = Annotated[str, Field(max_length=256), AfterValidator(storable)]
