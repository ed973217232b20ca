"""scripts/test: what CI runs. With arguments, only pytest with these arguments."""

import subprocess
import sys

from scripts import steps
from scripts.process import ROOT
from scripts.terminal import Terminal

HELP = """\
usage: scripts/test [--faults] [PYTEST ARGUMENT …]

Run the checks of scripts/check and then the tests, as CI does: all but the slow ones of the fault suite. With
arguments, only pytest runs, with these arguments: scripts/test tests/unit -k retry. Paths are relative to the
project's folder.

  --faults   run the whole fault suite (some minutes): processes and servers are killed, frozen and cut off, and no
             job may be lost or billed twice. Its random moments come from a seed, printed at the end:
             scripts/test --faults --faults-seed 7 repeats them.
"""
FAULTS = "tests/e2e/faults"
#: All tests, with the coverage that pyproject.toml asks for, and the slowest by name.
EVERYTHING = ["--cov", "--cov-report=term", "--durations=10"]


def main(arguments: list[str]) -> int:
    if arguments in (["-h"], ["--help"]):
        print(HELP, end="")
        return 0
    if not arguments:
        checked = steps.run_checks(Terminal())
        arguments = EVERYTHING
    else:
        checked = True
        arguments = [FAULTS if argument == "--faults" else argument for argument in arguments]
    tested = subprocess.run([sys.executable, "-m", "pytest", *arguments], cwd=ROOT, check=False).returncode
    return tested or int(not checked)
