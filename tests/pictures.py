"""Pictures for tests, small and otherwise."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from typing import Any

from PIL import Image


def picture(form: str = "PNG", size: tuple[int, int] = (40, 30), **options: Any) -> bytes:
    """A whole picture, of noise: it does not compress away."""
    file = BytesIO()
    Image.effect_noise(size, 80).convert("RGB").save(file, form, **options)
    return file.getvalue()


def animated(form: str) -> bytes:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "green", "blue")]
    file = BytesIO()
    frames[0].save(file, form, save_all=True, append_images=frames[1:], duration=50)
    return file.getvalue()


def with_metadata(data: bytes, size: int) -> bytes:
    """A PNG or JPEG with so many bytes of metadata in front of its pixels."""
    if data.startswith(b"\xff\xd8"):
        piece = b"\xff\xed" + (60_002).to_bytes(2, "big") + bytes(60_000)
        return data[:2] + piece * (size // 60_000 + 1) + data[2:]
    text = b"tEXtworkflow\0" + b"x" * size
    return (
        data[:33] + struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text)) + data[33:]
    )


def bomb(side: int = 30_000) -> bytes:
    """A PNG of a few hundred kilobytes that would be gigabytes of pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    row = b"\0" + bytes(3 * side)
    pixels = b"".join(packer.compress(row) for _ in range(min(side, 1000))) + packer.flush()
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def heic(width: int = 40, height: int = 30, payload: int = 1000) -> bytes:
    """The boxes of an HEIC file around bytes that are no pixels."""

    def box(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data) + 8) + kind + data

    ispe = box(b"ispe", struct.pack(">III", 0, width, height))
    meta = box(b"meta", bytes(4) + box(b"iprp", box(b"ipco", ispe)))
    return box(b"ftyp", b"heic" + bytes(4) + b"mif1heic") + meta + box(b"mdat", bytes(payload))
