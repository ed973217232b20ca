"""Pictures: a small landscape in colours of the prompt's hash, with the prompt and the word SIMULATED on it."""

import colorsys
import functools
import hashlib
import io
import math
import random
import textwrap
import threading
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont, UnidentifiedImageError

from .encode import encode
from .facts import DIMENSIONS_1K, dimensions

Colour = tuple[int, int, int]

_MAX_PROMPT_LINES = 5
_MAX_SHOWN_INPUTS = 4
_HILLS = 4
#: FreeType faces are not safe to use from two threads at once.
_font_lock = threading.Lock()


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
    """Paint and encode; deterministic in the order, apart from the grain. Raises UnreadableInput."""
    width, height = dimensions(order.ratio or _ratio_of(order.inputs), order.size)
    digest = hashlib.sha256(f"{order.seed}\0{order.prompt}".encode()).digest()
    rng = random.Random(digest)
    canvas = _landscape(width, height, rng)
    if order.inputs:
        _show_inputs(canvas, order.inputs)
    with _font_lock:
        _write(canvas, order)
    data = encode(canvas, order.media_type, order.size, not order.light, rng)
    return Picture(data, order.media_type, width, height)


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


# ---- background


def _colour(hue: float, saturation: float, value: float) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return int(red * 255), int(green * 255), int(blue * 255)


def _landscape(width: int, height: int, rng: random.Random) -> Image.Image:
    """A sky with a sun and receding hills, drawn at a quarter of the size and enlarged smoothly."""
    scale = max(width, height) / 512
    small = (round(width / scale), round(height / scale))
    hue = rng.random()
    canvas = _sky(small, hue, rng)
    _sun(canvas, hue, rng)
    for layer in range(_HILLS):
        _hill(canvas, hue, layer, rng)
    return canvas.resize((width, height), Image.Resampling.BILINEAR)


def _sky(size: tuple[int, int], hue: float, rng: random.Random) -> Image.Image:
    mesh = Image.new("RGB", (3, 4))
    for y in range(4):
        for x in range(3):
            shade = _colour(hue + 0.10 * y + rng.uniform(-0.05, 0.05), 0.75 - 0.15 * y, 0.42 + 0.16 * y)
            mesh.putpixel((x, y), shade)
    return mesh.resize(size, Image.Resampling.BICUBIC)


def _sun(canvas: Image.Image, hue: float, rng: random.Random) -> None:
    width, height = canvas.size
    x, y = rng.uniform(0.2, 0.8) * width, rng.uniform(0.3, 0.55) * height
    pen = ImageDraw.Draw(canvas, "RGBA")
    warm = _colour(hue + 0.45, 0.25, 1.0)
    for radius, alpha in ((0.32, 18), (0.26, 22), (0.20, 30), (0.14, 60), (0.10, 255)):
        r = radius * min(width, height)
        pen.ellipse((x - r, y - r, x + r, y + r), fill=(*warm, alpha))


def _hill(canvas: Image.Image, hue: float, layer: int, rng: random.Random) -> None:
    width, height = canvas.size
    base = height * (0.52 + 0.13 * layer)
    waves = [(rng.uniform(0.6, 2.6), rng.uniform(0, math.tau), height * 0.05 / (n + 1)) for n in range(3)]
    outline = [
        (
            x,
            base
            + sum(depth * math.sin(math.tau * count * x / width + phase) for count, phase, depth in waves),
        )
        for x in range(0, width + 4, 4)
    ]
    shade = _colour(hue + 0.08 - 0.04 * layer, 0.55 + 0.08 * layer, 0.62 - 0.14 * layer)
    ImageDraw.Draw(canvas).polygon([(0, height), *outline, (width + 4, height)], fill=shade)


# ---- input images


def _show_inputs(canvas: Image.Image, inputs: tuple[tuple[str, bytes], ...]) -> None:
    """The first input images as framed cards in a row, so that an edit visibly holds what it edits."""
    shown = inputs[:_MAX_SHOWN_INPUTS]
    width, height = canvas.size
    gap = min(width, height) // 40
    room = (int((width * 0.8 - gap * (len(shown) - 1)) / len(shown)), int(height * 0.38))
    cards = [_card(media_type, data, room) for media_type, data in shown]
    left = (width - sum(card.width for card in cards) - gap * (len(cards) - 1)) // 2
    for card in cards:
        canvas.paste(card, (left, int(height * 0.46 - card.height / 2)))
        left += card.width + gap
    for media_type, data in inputs[_MAX_SHOWN_INPUTS:]:
        _open(media_type, data)


def _card(media_type: str, data: bytes, room: tuple[int, int]) -> Image.Image:
    image = _open(media_type, data)
    border = max(2, min(room) // 40)
    inner = (max(1, room[0] - 2 * border), max(1, room[1] - 2 * border))
    ratio = min(inner[0] / image.width, inner[1] / image.height)
    target = (max(1, round(image.width * ratio)), max(1, round(image.height * ratio)))
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
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise UnreadableInput(str(error)) from error


# ---- text


@functools.lru_cache(maxsize=64)
def _font(size: int, wide: bool) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font; for scripts that it lacks, DejaVu Sans where the machine has it."""
    if wide:
        try:
            return ImageFont.truetype("DejaVuSans.ttf", size)
        except OSError:
            pass
    return ImageFont.load_default(size)


def _write(canvas: Image.Image, order: PictureOrder) -> None:
    width, height = canvas.size
    unit = min(width, height)
    pen = ImageDraw.Draw(canvas, "RGBA")
    headline = "SIMULATED DRAFT" if order.draft else "SIMULATED"
    pen.text(
        (width / 2, height * 0.13),
        headline,
        font=_font(int(min(unit * 0.14, width * 0.9 / len(headline) / 0.66)), wide=False),
        fill=(255, 255, 255, 245),
        anchor="mm",
        stroke_width=max(1, unit // 300),
        stroke_fill=(0, 0, 0, 110),
    )
    _caption(pen, order, width, height, unit)


def _caption(pen: ImageDraw.ImageDraw, order: PictureOrder, width: int, height: int, unit: int) -> None:
    """The prompt, wrapped, on a dark translucent panel; below it the label."""
    size = max(12, int(unit * 0.042))
    font = _font(size, wide=not order.prompt.isascii())
    per_line = max(12, int(width * 0.86 / (size * 0.52)))
    printable = "".join(c if c.isprintable() else " " for c in order.prompt)
    lines = textwrap.wrap(printable, per_line, max_lines=_MAX_PROMPT_LINES, placeholder=" …") or ["(no text)"]
    step = int(size * 1.35)
    margin = int(unit * 0.04)
    panel_height = step * len(lines) + int(size * 1.9)
    top = height - margin - panel_height
    pen.rounded_rectangle(
        (margin, top, width - margin, height - margin), radius=unit // 50, fill=(0, 0, 0, 120)
    )
    left = margin + int(size * 0.8)
    for number, line in enumerate(lines):
        pen.text((left, top + size * 0.55 + number * step), line, font=font, fill=(255, 255, 255, 255))
    small = _font(max(10, int(size * 0.6)), wide=False)
    pen.text((left, height - margin - size * 1.05), order.label, font=small, fill=(255, 255, 255, 190))
