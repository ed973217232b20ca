"""The background of a picture: a sky with a glow and receding hills, in colours that a random generator chooses."""

import colorsys
import math
import random
from dataclasses import dataclass

from PIL import Image, ImageDraw

Colour = tuple[int, int, int]

HILLS = 5
_SKY_WIDTH = 192  # the sky is soft: it is drawn small and enlarged
_GLOW_STEPS = 14
#: Sky from the top to the horizon, then the sun, then the farthest and the nearest hill.
_PALETTES = (
    ("1b2a5c", "6b4f9a", "f2a07b", "fff1c9", "9c6b98", "1a1838"),
    ("0f3557", "3f7fa6", "f6d9a8", "fffbe6", "6d9db0", "0c2433"),
    ("3a1c4a", "b1436d", "ffb26b", "ffe9b8", "b65a70", "23102b"),
    ("12343b", "2d7d79", "e9e2b6", "ffffff", "5e9c8d", "0d2426"),
    ("27304f", "5f6fa3", "f3c6c9", "fff4ef", "8a87b5", "191d33"),
    ("402218", "c4622d", "fbd38a", "fff6d6", "c27b4c", "2a150f"),
    ("102a43", "486fa8", "cfe3f2", "ffffff", "7f9fc4", "0b1b2c"),
    ("2b3a1e", "7d9a4b", "f4ecb5", "fffde8", "93a862", "18220f"),
)


@dataclass(frozen=True, slots=True)
class Scene:
    """The choices that make one landscape, in fractions of its width and height."""

    sky: tuple[Colour, Colour, Colour]
    sun: Colour
    far: Colour
    near: Colour
    sun_x: float
    sun_y: float
    waves: tuple[tuple[tuple[float, float, float], ...], ...]  # per hill: (waves across, phase, depth)


def scene(rng: random.Random) -> Scene:
    """A palette, turned a little, and the outlines of the hills."""
    turn = rng.uniform(-0.06, 0.06)
    top, middle, horizon, sun, far, near = (_turned(code, turn) for code in rng.choice(_PALETTES))
    waves = tuple(
        tuple((rng.uniform(0.5, 3.0), rng.uniform(0, math.tau), 0.045 / (n + 1)) for n in range(3))
        for _ in range(HILLS)
    )
    x, y = rng.uniform(0.22, 0.78), rng.uniform(0.34, 0.5)
    return Scene((top, middle, horizon), sun, far, near, x, y, waves)


def _turned(code: str, turn: float) -> Colour:
    """A hexadecimal colour with its hue moved by a fraction of the circle."""
    red, green, blue = (value / 255 for value in bytes.fromhex(code))
    hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
    red, green, blue = colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def blend(one: Colour, other: Colour, share: float) -> Colour:
    """Between two colours: 0 is the first, 1 the second."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue


def hill_outline(of: Scene, layer: int, width: int, height: int, step: int) -> list[tuple[float, float]]:
    """The polygon of a hill, nearest last."""
    base = 0.55 + 0.10 * layer
    crest = [
        (
            x,
            height
            * (base + sum(depth * math.sin(math.tau * n * x / width + phase) for n, phase, depth in waves)),
        )
        for waves in (of.waves[layer],)
        for x in range(0, width + step, step)
    ]
    return [(0, height), *crest, (width + step, height)]


def hill_colour(of: Scene, layer: int) -> Colour:
    """From far to near, and a little into the haze of the horizon at first."""
    return blend(of.far, of.near, (layer / (HILLS - 1)) ** 0.8)


def landscape(of: Scene, width: int, height: int) -> Image.Image:
    """The background at full size."""
    canvas = _sky(of, _SKY_WIDTH, max(1, round(_SKY_WIDTH * height / width)))
    canvas = canvas.resize((width, height), Image.Resampling.BILINEAR)
    pen = ImageDraw.Draw(canvas)
    x, y, radius = of.sun_x * width, of.sun_y * height, 0.085 * min(width, height)
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=of.sun)
    for layer in range(HILLS):
        outline = hill_outline(of, layer, width, height, step=max(4, width // 256))
        pen.polygon(outline, fill=hill_colour(of, layer))
    return canvas


def _sky(of: Scene, width: int, height: int) -> Image.Image:
    top, middle, horizon = of.sky
    mesh = Image.new("RGB", (1, 5))
    steps = (top, blend(top, middle, 0.6), blend(middle, horizon, 0.25), horizon, horizon)
    for row, shade in enumerate(steps):
        mesh.putpixel((0, row), shade)
    sky = mesh.resize((width, height), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(sky, "RGBA")
    x, y = of.sun_x * width, of.sun_y * height
    for step in range(_GLOW_STEPS):
        radius = 0.55 * min(width, height) * (1 - step / (_GLOW_STEPS + 2))
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(*of.sun, 12))
    return sky
