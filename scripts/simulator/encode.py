"""Fast picture encoding with a wanted weight.

Pillow's PNG encoder tries five filters a row and takes 55 to 120 ms for a noisy megapixel. This one applies the Sub
filter to whole bands with one image operation and leaves the entropy to Huffman codes: under 30 ms. The noise is
made once and cut at another place for every band.
"""

import functools
import io
import random
import struct
import threading
import zlib
from statistics import NormalDist

from PIL import Image, ImageChops

BAND_ROWS = 256
#: How much wider the cached noise is than a picture: the room to cut it at different places.
_SPARE = 256
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_SUB_FILTER, _UP_FILTER = b"\x01", b"\x02"
_RGB, _PALETTE = 2, 3  # colour types

#: Standard deviation of the noise: it decides the weight. Large pictures carry finer grain, as real ones do.
PNG_SIGMA = {"1K": 2.4, "2K": 1.0, "4K": 0.9}
JPEG_SIGMA = 7.0
JPEG_QUALITY = 93

_noise_lock = threading.Lock()


def heavy(picture: Image.Image, media_type: str, size: str, rng: random.Random) -> bytes:
    """An RGB picture as PNG or JPEG bytes, as heavy as a real one of its size."""
    return _grained_jpeg(picture, rng) if media_type == "image/jpeg" else _grained_png(picture, size, rng)


def light(sketch: Image.Image, width: int, height: int, media_type: str) -> bytes:
    """A small picture with a palette, enlarged without smoothing to PNG or JPEG bytes of this width and height."""
    if media_type == "image/jpeg":
        out = io.BytesIO()
        sketch.convert("RGB").resize((width, height), Image.Resampling.NEAREST).save(out, "JPEG", quality=60)
        return out.getvalue()
    return _enlarged_png(sketch, width, height)


def _grained_png(picture: Image.Image, size: str, rng: random.Random) -> bytes:
    deflate = zlib.compressobj(1, zlib.DEFLATED, 15, 9, zlib.Z_HUFFMAN_ONLY)
    out = [_SIGNATURE, _header(picture.width, picture.height, _RGB)]
    for top in range(0, picture.height, BAND_ROWS):
        packed = deflate.compress(_sub_filtered(_grained(_band(picture, top), PNG_SIGMA[size], rng)))
        if packed:
            out.append(_chunk(b"IDAT", packed))
    out += (_chunk(b"IDAT", deflate.flush()), _chunk(b"IEND", b""))
    return b"".join(out)


def _enlarged_png(sketch: Image.Image, width: int, height: int) -> bytes:
    """Rows that repeat the one above are zeros under the Up filter: next to nothing to compress."""
    raw = sketch.resize((width, sketch.height), Image.Resampling.NEAREST).tobytes()
    same = _UP_FILTER + bytes(width)
    deflate = zlib.compressobj(1)
    parts = []
    for row in range(sketch.height):
        repeats = (row + 1) * height // sketch.height - row * height // sketch.height
        parts.append(deflate.compress(b"\0" + raw[row * width : (row + 1) * width] + same * (repeats - 1)))
    parts.append(deflate.flush())
    palette = bytes(sketch.getpalette() or ())
    body = _chunk(b"PLTE", palette) + _chunk(b"IDAT", b"".join(parts)) + _chunk(b"IEND", b"")
    return _SIGNATURE + _header(width, height, _PALETTE) + body


def _header(width: int, height: int, colours: int) -> bytes:
    return _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colours, 0, 0, 0))


def _band(picture: Image.Image, top: int) -> Image.Image:
    return picture.crop((0, top, picture.width, min(top + BAND_ROWS, picture.height)))


def _sub_filtered(band: Image.Image) -> bytes:
    """Rows of differences to the left neighbour, each after its filter byte."""
    shifted = Image.new("RGB", band.size)
    shifted.paste(band, (1, 0))
    raw = ImageChops.subtract_modulo(band, shifted).tobytes()
    stride = band.width * 3
    rows = [raw[at : at + stride] for at in range(0, len(raw), stride)]
    return _SUB_FILTER + _SUB_FILTER.join(rows)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))


def _grained_jpeg(picture: Image.Image, rng: random.Random) -> bytes:
    for top in range(0, picture.height, BAND_ROWS):
        picture.paste(_grained(_band(picture, top), JPEG_SIGMA, rng), (0, top))
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=JPEG_QUALITY)
    return out.getvalue()


def _grained(band: Image.Image, sigma: float, rng: random.Random) -> Image.Image:
    left = rng.randrange(_SPARE)
    noise = _noise(-(-band.width // 512) * 512, sigma).crop((left, 0, left + band.width, band.height))
    return ImageChops.add(band, noise, scale=1, offset=-128)


def _noise(width: int, sigma: float) -> Image.Image:
    """An RGB band of Gaussian noise around 128, at least `width` + spare wide; made once for each width and sigma."""
    with _noise_lock:
        return _make_noise(width, sigma)


@functools.lru_cache(maxsize=24)
def _make_noise(width: int, sigma: float) -> Image.Image:
    box = (width + _SPARE, BAND_ROWS)
    levels = NormalDist(128, sigma)
    # Uniform bytes through the inverse of the distribution: the same grain in every process.
    table = [round(min(255, max(0, levels.inv_cdf((byte + 0.5) / 256)))) for byte in range(256)]
    raw = random.Random(box[0]).randbytes(box[0] * box[1] * 3)
    return Image.frombytes("RGB", box, raw).point(table * 3)
