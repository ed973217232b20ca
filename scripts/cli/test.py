"""scripts/test: what CI runs. With arguments, only pytest with these arguments."""

import subprocess
import sys

from scripts import steps
from scripts.process import ROOT
from scripts.terminal import Terminal

HELP = """\
usage: scripts/test [PYTEST ARGUMENT …]

Run the checks of scripts/check and then all tests, as CI does. With arguments, only pytest runs, with these
arguments: scripts/test tests/unit -k retry. Paths are relative to the project's folder.
"""


def main(arguments: list[str]) -> int:
    if arguments in (["-h"], ["--help"]):
        print(HELP, end="")
        return 0
    checked = bool(arguments) or steps.run_checks(Terminal())
    tested = subprocess.run([sys.executable, "-m", "pytest", *arguments], cwd=ROOT, check=False).returncode
    return tested or int(not checked)
