from __future__ import annotations

import base64
import os
from io import BytesIO

import pytest
from PIL import Image

from shared.providers.images import NotAnImageError, decode_base64, inspect


def encoded(kind: str) -> bytes:
    data = BytesIO()
    Image.effect_noise((40, 30), 50).convert("RGB").save(data, kind)
    return data.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_inspect_reads_type_and_size(kind: str) -> None:
    image = inspect(encoded(kind))

    assert (image.media_type, image.width, image.height) == (f"image/{kind.lower()}", 40, 30)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_inspect_refuses_half_a_picture(kind: str) -> None:
    data = encoded(kind)

    with pytest.raises(NotAnImageError):
        inspect(data[: len(data) // 2])


def test_inspect_takes_metadata_after_the_end() -> None:
    assert inspect(encoded("JPEG") + b"\x00" * 1000).media_type == "image/jpeg"


@pytest.mark.parametrize("data", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"BM" + b"\0" * 60, b"<svg/>"])
def test_inspect_refuses_anything_else(data: bytes) -> None:
    with pytest.raises(NotAnImageError):
        inspect(data)


@pytest.mark.parametrize("size", [0, 1, 2, 3, 786_432, 786_433, 3_000_001])
def test_base64_of_any_size_comes_back(size: int) -> None:
    data = os.urandom(size)

    assert decode_base64(base64.b64encode(data).decode()) == data


@pytest.mark.parametrize("text", ["abc", "ab=c", "a b=", "ä===", "=" * 8, "A" * 2_000_001])
def test_base64_is_strict(text: str) -> None:
    with pytest.raises(NotAnImageError):
        decode_base64(text)
