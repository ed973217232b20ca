"""Command-line pieces that several scripts share."""

import argparse
from pathlib import Path

from scripts.process import ROOT
from scripts.terminal import Terminal

DATA = ROOT / ".plantain"


def add_data_dir(parser: argparse.ArgumentParser) -> None:
    """--data-dir, relative to where the user is."""
    parser.add_argument(
        "--data-dir",
        type=Path,
        default=DATA,
        metavar="DIR",
        help="where data and logs go (default: %(default)s)",
    )


def add_latency_scale(parser: argparse.ArgumentParser, default: float) -> None:
    parser.add_argument(
        "--provider-latency-scale",
        type=scale,
        default=default,
        metavar="X",
        help="how slow the simulator is: 1 as the real models, 0 at once (default: %(default)s)",
    )


def scale(text: str) -> float:
    number = float(text)
    if not 0 <= number <= 1000:
        raise argparse.ArgumentTypeError("must be between 0 and 1000")
    return number


def port(text: str) -> int:
    number = int(text)
    if not 0 <= number <= 65_535:
        raise argparse.ArgumentTypeError("must be between 1 and 65535, or 0 for a free one")
    return number


def count(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 64:
        raise argparse.ArgumentTypeError("must be between 1 and 64")
    return number


def fail(terminal: Terminal, error: Exception, folder: Path | None = None) -> int:
    """Say why it did not work, in the error's own words; gives the exit code."""
    terminal.bad(str(error))
    if folder and (folder / "logs").is_dir():
        terminal.say(f"The logs are in {folder / 'logs'}. Mend the cause and run it again.")
    return 1
