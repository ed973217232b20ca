"""Whether bytes that a client gave are one whole picture that a model may see.

Two looks: the header, which is cheap and can be had from a picture's beginning, and the pixels, which only a decoder
can vouch for. A bomb declares its size in the header, so none is ever decoded. HEIC has no decoder here: its boxes
are checked (ISO/IEC 14496-12 and 23008-12), which finds what is cut off or too large, and not damaged pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO

from PIL import Image

from shared.providers import markers
from shared.providers.base import ImageBytes
from shared.providers.images import OPENABLE, NotAnImageError, has_end

#: The largest picture that is decoded: a phone's 48 megapixels, measured as 190 MB (a PNG; a JPEG takes 4, a progressive
#: one 280).
MAX_PIXELS = 50_000_000
#: A progressive JPEG is held whole while it is decoded, two bytes for each colour of a pixel.
_MAX_PROGRESSIVE = 3 * MAX_PIXELS
#: Pillow's WebP decoder takes 16 bytes for each pixel: 270 MB.
MAX_WEBP_PIXELS = 4096 * 4096
#: As much of a picture's beginning as :func:`read_header` needs; what stands further back is found when it is decoded.
HEADER_BYTES = 512 * 1024
#: The end of a picture that :func:`check_end` looks at, in bytes.
TAIL_BYTES = 64 * 1024
#: The brands by which an ISO media file says that it is HEIC or HEIF (ISO/IEC 23008-12, 10.2).
_HEIC_BRANDS = {b"heic": "image/heic", b"heix": "image/heic", b"mif1": "image/heif", b"msf1": "image/heif"}
_HEIC = frozenset(_HEIC_BRANDS.values())


@dataclass(frozen=True, slots=True)
class Header:
    """What a picture says of itself.

    Attributes:
        width, height: None where they stand too far back to be seen.
        declared_bytes: the whole file's size, where the format says it.
    """

    media_type: str
    width: int | None
    height: int | None
    declared_bytes: int | None = None


def read_header(start: bytes) -> Header:
    """Names a picture's type and dimensions, from ``HEADER_BYTES`` of its beginning or from all of it.

    Raises:
        UnknownImageError: no picture that we know.
        NotAnImageError: more pixels than are decoded, or more pictures than one.
    """
    if start[4:8] == b"ftyp" and (media_type := _HEIC_BRANDS.get(start[8:12])):
        width, height = _heic_dimensions(start)
        header = Header(media_type, width, height)
    elif start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        header = _webp_header(start)
    elif start.startswith(markers.PNG):
        header = Header("image/png", *markers.png_size(start))
    elif start.startswith(markers.JPEG):
        header = _jpeg_header(start)
    elif start[:6] in (b"GIF87a", b"GIF89a") and len(start) >= 10:
        width, height = (int.from_bytes(start[at : at + 2], "little") for at in (6, 8))
        header = Header("image/gif", width, height)
    else:
        raise markers.unknown()
    most = MAX_WEBP_PIXELS if header.media_type == "image/webp" else MAX_PIXELS
    if header.width and header.height and header.width * header.height > most:
        raise NotAnImageError(
            f"has {header.width:,} x {header.height:,} pixels; at most {most / 1e6:.0f} million are allowed"
        )
    return header


def check_end(header: Header, tail: bytes, size: int) -> None:
    """Finds out cheaply that a picture was cut off.

    Args:
        tail: its last ``TAIL_BYTES``.
        size: of all of it.

    Raises:
        NotAnImageError: its end is missing.
    """
    short = header.declared_bytes is not None and size < header.declared_bytes
    if short or not has_end(header.media_type, tail):
        raise NotAnImageError(f"is cut off: its end is missing after {size:,} bytes")


def decode(data: bytes) -> ImageBytes:
    """Decodes a whole picture, for nothing but to know that it can be. Slow: a second for the largest.

    Raises:
        NotAnImageError: it is none, or damaged.
    """
    header = read_header(data)
    if header.media_type in _HEIC:
        for _ in _boxes(data):
            pass
        return ImageBytes(data, header.media_type, header.width or 0, header.height or 0)
    check_end(header, data[-TAIL_BYTES:], len(data))
    if header.media_type == "image/jpeg":
        markers.check_scans(data)
    try:
        with Image.open(BytesIO(data), formats=OPENABLE) as picture:
            width, height = picture.size
            # What was checked is what is decoded.
            if (width, height) != (header.width, header.height):
                raise ValueError
            # A JPEG is read to its end all the same, into an eighth of its width and height.
            picture.draft(None, (width // 8, height // 8))
            picture.load()
    except Exception:  # noqa: BLE001  whatever a decoder raises over hostile bytes, they are no picture
        raise NotAnImageError("is damaged: its pixels cannot be read") from None
    return ImageBytes(data, header.media_type, width, height)


def _jpeg_header(start: bytes) -> Header:
    frame = markers.jpeg_frame(start)
    if frame is None:
        return Header("image/jpeg", None, None)
    if frame.progressive and frame.width * frame.height * frame.components > _MAX_PROGRESSIVE:
        raise NotAnImageError(
            f"is progressive, of {frame.components} colours, and has {frame.width:,} x {frame.height:,} pixels; "
            f"at most {_MAX_PROGRESSIVE / frame.components / 1e6:.0f} million are allowed"
        )
    return Header("image/jpeg", frame.width, frame.height)


def _webp_header(start: bytes) -> Header:
    """Read by hand: Pillow's decoder makes room for all pixels before it says how many (RFC 9649, 2.5 to 2.7)."""
    kind, data = start[12:16], start[20:30]
    if len(data) < 10:
        raise markers.unknown()
    if kind == b"VP8X":
        if data[0] & 0b10:
            raise markers.animated()
        width, height = int.from_bytes(data[4:7], "little") + 1, int.from_bytes(data[7:10], "little") + 1
    elif kind == b"VP8L" and data[0] == 0x2F:
        bits = int.from_bytes(data[1:5], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 " and data[3:6] == b"\x9d\x01\x2a":
        width, height = (int.from_bytes(data[at : at + 2], "little") & 0x3FFF for at in (6, 8))
    else:
        raise markers.unknown()
    return Header("image/webp", width, height, int.from_bytes(start[4:8], "little") + 8)


def _heic_dimensions(start: bytes) -> tuple[int | None, int | None]:
    """The largest item of an HEIC file: its ``ispe`` boxes are in ``meta``, which stands before the pixels."""
    largest: tuple[int | None, int | None] = (None, None)
    at = start.find(b"meta")
    while (at := start.find(b"ispe", at + 1)) > 0 and len(start) >= at + 16:
        width, height = (
            int.from_bytes(start[at + 8 : at + 12], "big"),
            int.from_bytes(start[at + 12 : at + 16], "big"),
        )
        if width * height > (largest[0] or 0) * (largest[1] or 0):
            largest = (width, height)
    return largest


def _boxes(data: bytes) -> Iterator[bytes]:
    """The types of a file's outermost boxes.

    Raises:
        NotAnImageError: they do not fill the file.
    """
    at = 0
    while at < len(data):
        size, kind, head = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8], 8
        if size == 1:  # it stands in 64 bits
            size, head = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        elif size == 0:  # to the end
            size = len(data) - at
        if size < head or at + size > len(data):
            raise NotAnImageError(f"is cut off: its end is missing after {len(data):,} bytes")
        yield kind
        at += size
