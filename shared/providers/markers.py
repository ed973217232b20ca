"""The headers of PNG and JPEG files, read by hand: in time that the bytes looked at bound, and with nothing decoded.

Pillow reads all that stands before the pixels, wants all of it to be there, and puts metadata together piece by piece: a
JPEG of a million tiny pieces of Exif keeps it busy for minutes. https://www.w3.org/TR/png-3/, ITU-T T.81, annex B.
"""

from __future__ import annotations

import re
import zlib
from typing import NamedTuple

from shared.providers.images import NotAnImageError, UnknownImageError

PNG = b"\x89PNG\r\n\x1a\n"
JPEG = b"\xff\xd8\xff"
#: Pieces of metadata and tables in a JPEG: 20 MB of the largest are 300.
_MAX_SEGMENTS = 1000
#: Passes over a JPEG's pixels: encoders make ten or twenty. One of 75 bytes takes a decoder 17 ms for 50 megapixels.
_MAX_SCANS = 100
_MARKER = re.compile(rb"\xff+([^\x00\xff])")
#: Behind the first scan, where 00 and restart marks belong to the pixels.
_MARKER_IN_SCANS = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
_END, _SCAN = 0xD9, 0xDA
#: Marks that nothing follows: TEM, the restart marks and the beginning.
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})


class Frame(NamedTuple):
    """What a JPEG says of its pixels."""

    width: int
    height: int
    components: int
    progressive: bool


def png_size(start: bytes) -> tuple[int, int]:
    """Width and height.

    Raises:
        UnknownImageError: the header is damaged, or not all there.
        NotAnImageError: it is animated, as far as ``start`` shows.
    """
    head = start[12:29]
    if head[:4] != b"IHDR" or start[29:33] != zlib.crc32(head).to_bytes(4, "big"):
        raise unknown()
    at = 33
    while len(start) >= at + 12 and (kind := start[at + 4 : at + 8]) not in (b"IDAT", b"IEND"):
        if kind == b"acTL" and int.from_bytes(start[at + 8 : at + 12], "big") > 1:
            raise animated()
        at += 12 + int.from_bytes(start[at : at + 4], "big")
    return int.from_bytes(head[4:8], "big"), int.from_bytes(head[8:12], "big")


def jpeg_frame(start: bytes) -> Frame | None:
    """None: it stands further back.

    Raises:
        UnknownImageError: something else stands where it should.
        NotAnImageError: too much stands before it.
    """
    at = 2
    for _ in range(_MAX_SEGMENTS):
        mark = _MARKER.match(start, at)
        if mark is None:
            if at + 2 > len(start):
                return None
            raise unknown()
        kind, at = mark[1][0], mark.end()
        if kind in _ALONE:
            continue
        if kind in (_END, _SCAN):
            raise unknown()
        if kind in _FRAMES and len(start) >= at + 8:
            height, width = (int.from_bytes(start[place : place + 2], "big") for place in (at + 3, at + 5))
            return Frame(width, height, start[at + 7], kind in _PROGRESSIVE)
        at += max(2, int.from_bytes(start[at : at + 2], "big"))
    raise _too_many("pieces of metadata", _MAX_SEGMENTS)


def check_scans(data: bytes) -> None:
    """Looks at all of a JPEG for what would keep a decoder busy for hours.

    Raises:
        NotAnImageError: it has too many scans, or too much between them.
    """
    at, scans = 2, 0
    for _ in range(_MAX_SEGMENTS):
        mark = _MARKER_IN_SCANS.search(data, at)
        if mark is None or mark[1][0] == _END:
            return
        kind, at = mark[1][0], mark.end()
        if kind in _ALONE:
            continue
        scans += kind == _SCAN
        if scans > _MAX_SCANS:
            raise _too_many("scans", _MAX_SCANS)
        at += max(2, int.from_bytes(data[at : at + 2], "big"))
    raise _too_many("pieces of metadata", _MAX_SEGMENTS)


def unknown() -> UnknownImageError:
    return UnknownImageError("is no PNG, JPEG, WebP or HEIC picture, or its beginning is damaged")


def animated() -> NotAnImageError:
    return NotAnImageError("is animated; send a single picture")


def _too_many(what: str, most: int) -> NotAnImageError:
    return NotAnImageError(f"has more than {most:,} {what}; save it anew")
