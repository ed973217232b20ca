"""What encoded pictures are, read from their bytes: never from what somebody declared."""

from __future__ import annotations

import binascii
from io import BytesIO

from PIL import Image

from shared.providers.base import ImageBytes

# Only headers are read here, and what decodes has a bound of its own: input_images.py. Pillow's would warn and raise.
Image.MAX_IMAGE_PIXELS = None
#: What Pillow is to try, and what it calls what it finds: a JPEG with further pictures behind the first, as
#: telephones make them, is an MPO to it.
OPENABLE = ("PNG", "JPEG", "WEBP", "GIF")
MEDIA_TYPES = {
    "PNG": "image/png",
    "JPEG": "image/jpeg",
    "MPO": "image/jpeg",
    "WEBP": "image/webp",
    "GIF": "image/gif",
}
#: Base64 is decoded in slices of this many characters (a multiple of four), because the decoder
#: holds the interpreter lock: a slice takes about a millisecond, a 4K picture in one go 30.
_SLICE = 1024 * 1024
#: Where the end mark of a whole picture must be; some writers append metadata after it.
_TAIL = 64 * 1024
_END_MARKS = {"image/png": b"IEND", "image/jpeg": b"\xff\xd9"}


class NotAnImageError(ValueError):
    """The bytes are no picture that we know, or only a part of one."""


class UnknownImageError(NotAnImageError):
    """The bytes are of no format that we know."""


def decode_base64(text: str | memoryview) -> bytes:
    """Decodes strictly: text that is cut off or holds anything foreign raises.

    Raises:
        NotAnImageError: not base64.
    """
    try:
        raw = memoryview(text.encode("ascii")) if isinstance(text, str) else text
        return b"".join(
            binascii.a2b_base64(raw[start : start + _SLICE], strict_mode=True)
            for start in range(0, len(raw), _SLICE)
        )
    except ValueError as error:
        raise NotAnImageError(f"the picture is not valid base64 ({error})"[:200]) from None


def inspect(data: bytes) -> ImageBytes:
    """Names a picture's type and dimensions from its header, without decoding pixels.

    Raises:
        NotAnImageError: empty, unknown, or its end is missing.
    """
    try:
        with Image.open(BytesIO(data), formats=OPENABLE) as picture:
            kind = picture.format or ""
            media_type = MEDIA_TYPES[kind]
            width, height = picture.size
    except (OSError, ValueError, SyntaxError):
        raise NotAnImageError(f"{len(data):,} bytes that are no PNG, JPEG, WebP or GIF picture") from None
    short = media_type == "image/webp" and len(data) < int.from_bytes(data[4:8], "little") + 8
    if short or not has_end(media_type, data):
        raise NotAnImageError(f"a {kind} picture of {len(data):,} bytes whose end is missing")
    return ImageBytes(data=data, media_type=media_type, width=width, height=height)


def has_end(media_type: str, data: bytes) -> bool:
    """Whether the mark that ends a picture stands near the end of the data; True for formats without one."""
    mark = _END_MARKS.get(media_type)
    return mark is None or data.rfind(mark, max(len(data) - _TAIL, 0)) >= 0
