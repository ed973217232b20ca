"""What is written to a terminal, and what to a file."""

import io

import pytest

from scripts.terminal import Terminal, seconds


class Screen(io.StringIO):
    """A stream that says it is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")


def test_terminal_gets_colour_and_a_line_that_moves() -> None:
    screen = Screen()
    terminal = Terminal(screen)
    terminal.status("working")
    terminal.good("done", "0.1 s")
    assert "working" in screen.getvalue()
    assert "\r\033[K\033[32m✓\033[0m done  \033[2m0.1 s\033[0m\n" in screen.getvalue()


def test_no_color_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "")
    screen = Screen()
    Terminal(screen).good("done")
    assert screen.getvalue() == "✓ done\n"


def test_file_gets_plain_lines_only() -> None:
    file = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    terminal = Terminal(file)
    terminal.status("working")
    terminal.bad("broken")
    file.seek(0)
    assert file.read() == "✗ broken\n"


def test_poor_encoding_is_no_error() -> None:
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    Terminal(file).good("naïve")
    file.seek(0)
    assert file.read() == "ok na?ve\n"


def test_reader_that_went_away_is_no_error() -> None:
    file = io.StringIO()
    terminal = Terminal(file)
    file.close()
    terminal.say("nobody listens")


@pytest.mark.parametrize(
    ("duration", "shown"), [(0.04, "0.0 s"), (9.94, "9.9 s"), (42, "42 s"), (125, "2 min 5 s")]
)
def test_seconds(duration: float, shown: str) -> None:
    assert seconds(duration) == shown
