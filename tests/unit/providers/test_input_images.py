from __future__ import annotations

import random
import time
from io import BytesIO

import pytest
from PIL import Image

from shared.providers.images import NotAnImageError, UnknownImageError, inspect
from shared.providers.input_images import HEADER_BYTES, MAX_PIXELS, TAIL_BYTES, check_end, decode, read_header
from tests.pictures import animated, bomb, heic, picture, with_metadata

WHOLE = {
    "png": picture("PNG"),
    "jpeg": picture("JPEG"),
    "progressive": picture("JPEG", progressive=True),
    "webp": picture("WEBP"),
    "lossless": picture("WEBP", lossless=True),
    "extended": picture("WEBP", exif=b"Exif\0\0" + bytes(20)),
    "heic": heic(),
}


@pytest.mark.parametrize("name", list(WHOLE))
def test_whole_pictures_are_decoded_and_keep_their_bytes(name: str) -> None:
    found = decode(WHOLE[name])

    assert found.data == WHOLE[name]
    assert (found.width, found.height) == (40, 30)


@pytest.mark.parametrize("name", list(WHOLE))
def test_the_header_says_the_same_of_the_beginning_alone(name: str) -> None:
    header = read_header(WHOLE[name][:700])

    assert (header.width, header.height) == (40, 30)
    assert header.media_type == decode(WHOLE[name]).media_type


@pytest.mark.parametrize("name", list(WHOLE))
@pytest.mark.parametrize("kept", [0.5, 0.99])
def test_what_is_cut_off_is_refused(name: str, kept: float) -> None:
    data = WHOLE[name][: int(len(WHOLE[name]) * kept)]

    with pytest.raises(NotAnImageError):
        decode(data)


def test_what_is_cut_off_is_found_out_from_its_last_bytes() -> None:
    for name in ("png", "jpeg", "webp"):
        data = WHOLE[name]
        check_end(read_header(data), data[-TAIL_BYTES:], len(data))
        with pytest.raises(NotAnImageError, match="cut off"):
            check_end(read_header(data), data[:-20], len(data) - 20)


def test_pixels_that_are_damaged_behind_a_good_header_and_end_are_refused() -> None:
    data = bytearray(picture("PNG", (200, 200)))
    for at in range(2000, 3000):
        data[at] ^= 0x5A

    assert read_header(bytes(data)).width == 200
    with pytest.raises(NotAnImageError, match="damaged"):
        decode(bytes(data))


def test_a_bomb_is_refused_by_its_header() -> None:
    data = bomb()
    started = time.perf_counter()

    with pytest.raises(NotAnImageError, match="pixels"):
        decode(data)

    assert len(data) < 1_000_000
    assert time.perf_counter() - started < 0.5


def test_a_webp_that_says_it_is_huge_is_refused_before_room_is_made_for_it() -> None:
    data = bytearray(picture("WEBP", exif=b"Exif\0\0" + bytes(20)))
    data[24:30] = (4096).to_bytes(3, "little") * 2  # each is one less than the side

    with pytest.raises(NotAnImageError, match="pixels"):
        decode(bytes(data))


def test_an_heic_that_says_it_is_huge_is_refused() -> None:
    with pytest.raises(NotAnImageError, match="pixels"):
        read_header(heic(MAX_PIXELS, 2))


def test_a_jpeg_of_countless_scans_is_refused_at_once() -> None:
    """Each pass over 49 megapixels takes the decoder 17 ms, and 75 bytes: 7 MB of them half an hour."""
    file = BytesIO()
    Image.new("L", (7000, 7000), 100).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    scan = data[data.rfind(b"\xff\xda") : -2]
    started = time.perf_counter()

    with pytest.raises(NotAnImageError, match="scans"):
        decode(data[:-2] + scan * 50_000 + data[-2:])
    assert time.perf_counter() - started < 0.5
    assert decode(data[:-2] + scan * 3 + data[-2:]).width == 7000


@pytest.mark.parametrize(
    "piece", [b"\xff\xe1\x00\x0cExif\0\0abcd", b"\xff\xfe\0\2", b"\xff\xd0", b"\xff" * 9 + b"\xfe\0\2"]
)
def test_a_jpeg_of_countless_pieces_is_refused_at_once(piece: bytes) -> None:
    data = WHOLE["jpeg"][:2] + piece * 500_000 + WHOLE["jpeg"][2:]
    started = time.perf_counter()

    with pytest.raises(NotAnImageError, match="metadata"):
        decode(data)
    assert time.perf_counter() - started < 0.5


def test_a_jpeg_that_declares_two_sizes_is_refused() -> None:
    data = WHOLE["jpeg"]
    at = data.index(b"\xff\xc0")
    other = bytearray(data[at : at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")])
    other[5:9] = b"\xff\xf0\xff\xf0"

    for first, second in (
        (data[at : at + len(other)], bytes(other)),
        (bytes(other), data[at : at + len(other)]),
    ):
        with pytest.raises(NotAnImageError):
            decode(data[:at] + first + second + data[at + len(other) :])


def test_a_progressive_jpeg_of_four_colours_takes_more_and_may_have_less() -> None:
    data = bytearray(picture("JPEG", progressive=True))
    at = data.index(b"\xff\xc2")
    data[at + 5 : at + 10] = (7000).to_bytes(2, "big") * 2 + b"\4"

    with pytest.raises(NotAnImageError, match="38 million"):
        read_header(bytes(data))


@pytest.mark.parametrize("name", ["png", "jpeg"])
def test_metadata_before_the_pixels_may_be_longer_than_what_is_looked_at(name: str) -> None:
    """Workflows of generators, signatures of cameras: they stand in front."""
    data = with_metadata(WHOLE[name], 700_000)

    header = read_header(data[:HEADER_BYTES])
    assert header.media_type == f"image/{name}"
    assert (header.width, header.height) == ((40, 30) if name == "png" else (None, None))
    assert (decode(data).width, decode(data).height) == (40, 30)


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_animations_are_refused(form: str) -> None:
    with pytest.raises(NotAnImageError, match="animated"):
        decode(animated(form))


def test_a_telephones_jpeg_with_further_pictures_behind_it_is_a_jpeg() -> None:
    file = BytesIO()
    first, second = (Image.effect_noise((40, 30), 50).convert("RGB") for _ in range(2))
    first.save(file, "MPO", save_all=True, append_images=[second])

    assert decode(file.getvalue()).media_type == "image/jpeg"
    assert inspect(file.getvalue()).media_type == "image/jpeg"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"<svg/>",
        b"%PDF-1.7",
        b"BM" + bytes(60),
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a",
        bytes(10_000),
    ],
)
def test_anything_else_is_of_no_known_format(data: bytes) -> None:
    with pytest.raises(UnknownImageError):
        read_header(data)


def test_no_damage_raises_anything_else() -> None:
    generator = random.Random(7)
    for data in WHOLE.values():
        for _ in range(60):
            hurt = bytearray(data)
            for _ in range(generator.randint(1, 30)):
                hurt[generator.randrange(len(hurt))] = generator.randrange(256)
            try:
                decode(bytes(hurt[: generator.randint(1, len(hurt))]))
            except NotAnImageError:
                continue
