"""Lines for people: colours and a line that moves on a terminal, plain lines elsewhere."""

import contextlib
import os
import shutil
import sys
import time
from typing import Final, TextIO

_CODES: Final = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
_FRAMES: Final = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"


class Terminal:
    """Writes to one stream; a reader that went away is no error."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stdout
        self.live = self.stream.isatty() and os.environ.get("TERM") != "dumb"
        self.colour = self.live and "NO_COLOR" not in os.environ
        self._status = False
        self._fancy = "utf" in (self.stream.encoding or "").lower()

    def paint(self, text: str, *styles: str) -> str:
        """The text in these styles: bold dim red green yellow cyan."""
        if not self.colour:
            return text
        return f"\033[{';'.join(_CODES[style] for style in styles)}m{text}\033[0m"

    def say(self, text: str = "") -> None:
        """One line (or several) that stays."""
        self._write(f"{self._erase()}{text}\n")

    def good(self, title: str, remark: str = "") -> None:
        self._mark("✓" if self._fancy else "ok", "green", title, remark)

    def bad(self, title: str, remark: str = "") -> None:
        self._mark("✗" if self._fancy else "FAILED", "red", title, remark)

    def warn(self, title: str, remark: str = "") -> None:
        self._mark("!", "yellow", title, remark)

    def status(self, text: str) -> None:
        """A line that the next one replaces; shown on a terminal only."""
        if not self.live:
            return
        frame = _FRAMES[int(time.monotonic() * 10) % len(_FRAMES)] if self._fancy else "-"
        width = shutil.get_terminal_size().columns - 3
        self._write(f"{self._erase()}{self.paint(frame, 'cyan')} {text[:width]}")
        self._status = True

    def clear(self) -> None:
        """Take the moving line away."""
        self._write(self._erase())

    def _mark(self, mark: str, style: str, title: str, remark: str) -> None:
        end = f"  {self.paint(remark, 'dim')}" if remark else ""
        self.say(f"{self.paint(mark, style)} {title}{end}")

    def _erase(self) -> str:
        erase = "\r\033[K" if self._status else ""
        self._status = False
        return erase

    def _write(self, text: str) -> None:
        if not self._fancy:
            encoding = self.stream.encoding or "ascii"
            text = text.encode(encoding, "replace").decode(encoding)
        with contextlib.suppress(OSError, ValueError):
            self.stream.write(text)
            self.stream.flush()


def seconds(duration: float) -> str:
    """A duration for people: 0.3 s, 12 s, 2 min 5 s."""
    if duration < 10:
        return f"{duration:.1f} s"
    if duration < 100:
        return f"{duration:.0f} s"
    return f"{duration // 60:.0f} min {duration % 60:.0f} s"
