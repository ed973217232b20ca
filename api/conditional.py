"""ETags and ranges (RFC 9110), pure."""

from __future__ import annotations

import re

from shared.errors import RangeNotSatisfiable

_ETAG = re.compile(r'(?:W/)?"[^"]*"')
_RANGE = re.compile(r"bytes=[ \t]*([0-9]*)-([0-9]*)[ \t]*")


def matches(header: str | None, etag: str) -> bool:
    """Whether ``If-None-Match`` names the ETag; compared weakly, as is right for it."""
    if not header:
        return False
    if header.strip() == "*":
        return True
    return etag.removeprefix("W/") in {found.removeprefix("W/") for found in _ETAG.findall(header)}


def byte_range(header: str | None, if_range: str | None, etag: str, size: int) -> tuple[int, int] | None:
    """First byte and the one after the last; None where the whole is to be sent.

    What is malformed, of another unit, of several parts, or meant for another version is ignored,
    as RFC 9110 (14.2) allows.

    Raises:
        RangeNotSatisfiable: no byte of it exists.
    """
    if header is None or (if_range is not None and if_range.strip() != etag):
        return None
    match = _RANGE.fullmatch(header.strip())
    if match is None or match[0].endswith("=-"):
        return None
    first, last = (_number(group, size) for group in match.groups())
    if first is None and last is None:
        return None
    if first is None:
        assert last is not None
        if last == 0:
            raise _outside(size)
        return max(0, size - last), size
    if match[2] and _smaller(match[2], match[1]):
        return None
    if first >= size:
        raise _outside(size)
    return first, size if last is None else min(last + 1, size)


def _number(digits: str, size: int) -> int | None:
    """The number; one with more digits than any file has bytes counts as just beyond the end."""
    if not digits:
        return None
    digits = digits.lstrip("0") or "0"
    return int(digits) if len(digits) <= 18 else size


def _smaller(left: str, right: str) -> bool:
    left, right = left.lstrip("0"), right.lstrip("0")
    return (len(left), left) < (len(right), right)


def _outside(size: int) -> RangeNotSatisfiable:
    return RangeNotSatisfiable(
        f"The artifact has {size} bytes; the range lies outside.",
        headers={"Content-Range": f"bytes */{size}"},
    )
