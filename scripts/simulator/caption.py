"""The words on a picture: SIMULATED, the prompt, and a small line that says what was asked for."""

import functools
import textwrap
import threading

from PIL import Image, ImageDraw, ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_MAX_LINES = 5
_WHITE = (255, 255, 255, 255)
#: FreeType faces are not safe to use from two threads at once.
_font_lock = threading.Lock()


@functools.lru_cache(maxsize=64)
def _font(size: int, wide: bool) -> Font:
    """Pillow's own font; for scripts that it lacks, DejaVu Sans where the machine has it."""
    if wide:
        try:
            return ImageFont.truetype("DejaVuSans.ttf", size)
        except OSError:
            pass
    return ImageFont.load_default(size)


def write(canvas: Image.Image, headline: str, prompt: str, label: str) -> None:
    """Write on an RGB canvas."""
    with _font_lock:
        pen = ImageDraw.Draw(canvas, "RGBA")
        _headline(pen, canvas.size, headline)
        _panel(pen, canvas.size, prompt, label)


def _headline(pen: ImageDraw.ImageDraw, box: tuple[int, int], text: str) -> None:
    width, height = box
    unit = min(width, height)
    size = int(min(unit * 0.145, width * 0.88 / len(text) / 0.66))
    middle, top = width / 2, height * 0.14
    shadow = max(1, size // 40)
    font = _font(size, wide=False)
    pen.text((middle + shadow, top + shadow), text, font=font, fill=(0, 0, 0, 95), anchor="mm")
    pen.text((middle, top), text, font=font, fill=_WHITE, anchor="mm")


def _panel(pen: ImageDraw.ImageDraw, box: tuple[int, int], prompt: str, label: str) -> None:
    """The prompt, wrapped, on a dark translucent panel; below it the label."""
    width, height = box
    unit = min(width, height)
    size = max(12, int(unit * 0.04))
    lines = wrapped(prompt, max(12, int(width * 0.86 / (size * 0.5))))
    step = int(size * 1.35)
    margin = int(unit * 0.04)
    top = height - margin - step * len(lines) - int(size * 1.9)
    corner = (margin, top, width - margin, height - margin)
    pen.rounded_rectangle(corner, radius=unit // 50, fill=(0, 0, 0, 115))
    font = _font(size, wide=not prompt.isascii())
    left = margin + int(size * 0.8)
    for number, line in enumerate(lines):
        pen.text((left, top + size * 0.5 + number * step), line, font=font, fill=_WHITE)
    small = _font(max(10, int(size * 0.6)), wide=False)
    pen.text((left, height - margin - size * 1.1), label, font=small, fill=(255, 255, 255, 190))


def wrapped(prompt: str, per_line: int) -> list[str]:
    """At most `_MAX_LINES` lines."""
    printable = "".join(c if c.isprintable() else " " for c in prompt)
    lines = textwrap.wrap(printable, per_line, max_lines=_MAX_LINES, placeholder=" …")
    return lines or ["(no text)"]


def write_small(canvas: Image.Image, headline: str, prompt: str, ink: int) -> None:
    """Write on a small canvas with a palette, without smoothing."""
    with _font_lock:
        pen = ImageDraw.Draw(canvas)
        pen.fontmode = "1"
        width, height = canvas.size
        pen.text(
            (width / 2, height * 0.14), headline, font=_font(width // 9, wide=False), fill=ink, anchor="mm"
        )
        font = _font(12, wide=not prompt.isascii())
        lines = wrapped(prompt, width // 7)[:4]
        pen.multiline_text((8, height - 8), "\n".join(lines), font=font, fill=ink, anchor="ld")
