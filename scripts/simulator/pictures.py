"""Pictures: a landscape in colours of the prompt's hash, with the prompt and the word SIMULATED on it."""

import hashlib
import io
import math
import random
from dataclasses import dataclass

from PIL import Image, ImageDraw, UnidentifiedImageError

from . import encode
from .caption import write, write_small
from .facts import DIMENSIONS_1K, dimensions
from .landscape import HILLS, Scene, blend, hill_colour, hill_outline, landscape, scene

_MAX_SHOWN_INPUTS = 4
_LIGHT_WIDTH = 256
_LIGHT_SKY = 8  # bands of the sky in a light picture


class UnreadableInput(ValueError):
    """An input image that says it is a PNG, JPEG or WebP and is none."""


@dataclass(frozen=True, slots=True)
class PictureOrder:
    """What to paint."""

    prompt: str
    seed: int
    ratio: str  # "" = like the first input image
    size: str
    media_type: str
    label: str  # the small line: model, ratio, size
    inputs: tuple[tuple[str, bytes], ...] = ()  # (media type, bytes)
    light: bool = False
    draft: bool = False


@dataclass(frozen=True, slots=True)
class Picture:
    """An encoded picture."""

    data: bytes
    media_type: str
    width: int
    height: int


def paint(order: PictureOrder) -> Picture:
    """Paint and encode; the same order gives the same picture. Raises UnreadableInput."""
    width, height = dimensions(order.ratio or _ratio_of(order.inputs), order.size)
    rng = random.Random(hashlib.sha256(f"{order.seed}\0{order.prompt}".encode()).digest())
    of = scene(rng)
    headline = "SIMULATED DRAFT" if order.draft else "SIMULATED"
    if order.light:
        for media_type, data in order.inputs:
            _open(media_type, data)
        sketch = _sketch(of, _LIGHT_WIDTH * height // width)
        write_small(sketch, headline, order.prompt, ink=0)
        data = encode.light(sketch, width, height, order.media_type)
    else:
        canvas = landscape(of, width, height)
        _show_inputs(canvas, order.inputs)
        write(canvas, headline, order.prompt, order.label)
        data = encode.heavy(canvas, order.media_type, order.size, rng)
    return Picture(data, order.media_type, width, height)


def _sketch(of: Scene, height: int) -> Image.Image:
    """The landscape in sixteen colours and a sixteenth of the pixels: a load test pays for the call, not the picture."""
    sketch = Image.new("P", (_LIGHT_WIDTH, height))
    top, _, horizon = of.sky
    sky = [blend(top, horizon, band / (_LIGHT_SKY - 1)) for band in range(_LIGHT_SKY)]
    colours = [(255, 255, 255), *sky, *(hill_colour(of, layer) for layer in range(HILLS))]
    sketch.putpalette([value for colour in colours for value in colour])
    pen = ImageDraw.Draw(sketch)
    for band in range(_LIGHT_SKY):
        pen.rectangle((0, height * band // _LIGHT_SKY, _LIGHT_WIDTH, height), fill=1 + band)
    for layer in range(HILLS):
        pen.polygon(hill_outline(of, layer, _LIGHT_WIDTH, height, step=8), fill=1 + _LIGHT_SKY + layer)
    return sketch


# ---- input images


def _ratio_of(inputs: tuple[tuple[str, bytes], ...]) -> str:
    """The known ratio nearest to the first input image's, as the real models choose; 1:1 without one."""
    if not inputs:
        return "1:1"
    image = _open(*inputs[0])
    wanted = math.log(image.width / image.height)
    return min(DIMENSIONS_1K, key=lambda ratio: abs(math.log(_quotient(ratio)) - wanted))


def _quotient(ratio: str) -> float:
    width, height = ratio.split(":")
    return int(width) / int(height)


def _show_inputs(canvas: Image.Image, inputs: tuple[tuple[str, bytes], ...]) -> None:
    """The first input images as framed cards in a row, so that an edit visibly holds what it edits."""
    shown = inputs[:_MAX_SHOWN_INPUTS]
    width, height = canvas.size
    gap = min(width, height) // 40
    room = (int((width * 0.8 - gap * len(shown)) / max(1, len(shown))), int(height * 0.42))
    cards = [_card(media_type, data, room) for media_type, data in shown]
    left = (width - sum(card.width for card in cards) - gap * (len(cards) - 1)) // 2
    for card in cards:
        canvas.paste(card, (left, int(height * 0.47 - card.height / 2)))
        left += card.width + gap
    for media_type, data in inputs[_MAX_SHOWN_INPUTS:]:
        _open(media_type, data)


def _card(media_type: str, data: bytes, room: tuple[int, int]) -> Image.Image:
    image = _open(media_type, data)
    border = max(2, min(room) // 40)
    inner = (max(1, room[0] - 2 * border), max(1, room[1] - 2 * border))
    factor = min(inner[0] / image.width, inner[1] / image.height)
    target = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    image.draft("RGB", target)
    try:
        picture = image.convert("RGBA").resize(target, Image.Resampling.BILINEAR)
    except (OSError, SyntaxError) as error:
        raise UnreadableInput(str(error)) from error
    card = Image.new("RGB", (target[0] + 2 * border, target[1] + 2 * border), "white")
    card.paste(picture, (border, border), picture)
    return card


def _open(media_type: str, data: bytes) -> Image.Image:
    if media_type in {
        "image/heic",
        "image/heif",
    }:  # Pillow cannot read them without a plugin: a grey stand-in
        return Image.new("RGB", (640, 480), (128, 128, 128))
    try:
        return Image.open(io.BytesIO(data), formats=["PNG", "JPEG", "WEBP"])
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UnreadableInput(str(error)) from error
