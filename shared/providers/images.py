"""What encoded pictures are, read from their bytes: never from what somebody declared."""

from __future__ import annotations

import binascii
from io import BytesIO

from PIL import Image

from shared.providers.base import ImageBytes

#: Pillow's names of the formats that a provider may answer with.
_MEDIA_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp", "GIF": "image/gif"}
#: Base64 is decoded in slices of this many characters (a multiple of four), because the decoder
#: holds the interpreter lock: a slice takes about a millisecond, a 4K picture in one go 30.
_SLICE = 1024 * 1024
#: Where the end mark of a whole picture must be; some writers append metadata after it.
_TAIL = 64 * 1024


class NotAnImageError(ValueError):
    """The bytes are no picture that we know, or only a part of one."""


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
        with Image.open(BytesIO(data), formats=list(_MEDIA_TYPES)) as picture:
            kind = picture.format or ""
            width, height = picture.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise NotAnImageError(f"{len(data):,} bytes that are no PNG, JPEG, WebP or GIF picture") from None
    if not _is_whole(kind, data):
        raise NotAnImageError(f"a {kind} picture of {len(data):,} bytes whose end is missing")
    return ImageBytes(data=data, media_type=_MEDIA_TYPES[kind], width=width, height=height)


def _is_whole(kind: str, data: bytes) -> bool:
    match kind:
        case "PNG":
            return data.rfind(b"IEND", max(len(data) - _TAIL, 0)) >= 0
        case "JPEG":
            return data.rfind(b"\xff\xd9", max(len(data) - _TAIL, 0)) >= 0
        case "WEBP":
            return len(data) >= int.from_bytes(data[4:8], "little") + 8
        case _:
            return True
