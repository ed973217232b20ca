"""scripts/test: what CI runs. With arguments, only pytest with these arguments."""

import subprocess
import sys

from scripts import steps
from scripts.process import ROOT
from scripts.terminal import Terminal

HELP = """\
usage: scripts/test [--faults | --contract] [PYTEST ARGUMENT …]

Run the checks of scripts/check and then the tests, as CI does: all but the slow ones of the fault suite and the contract. With
arguments, only pytest runs, with these arguments: scripts/test tests/unit -k retry. Paths are relative to the
project's folder.

  --faults   run the whole fault suite (some minutes): processes and servers are killed, frozen and cut off, and no
             job may be lost or billed twice. Its random moments come from a seed, printed at the end:
             scripts/test --faults --faults-seed 7 repeats them.
  --contract ask the running API thousands of things at random, from its OpenAPI document and against all rules (some
             minutes): every answer must be as documented, and none a fault of ours. The seed is printed:
             scripts/test --contract --contract-seed 7 repeats a run.
"""
#: What an option of ours stands for: pytest's own arguments.
OPTIONS = {"--faults": ["tests/e2e/faults"], "--contract": ["tests/contract/api", "-rP"]}
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
        arguments = [word for argument in arguments for word in OPTIONS.get(argument, [argument])]
    tested = subprocess.run([sys.executable, "-m", "pytest", *arguments], cwd=ROOT, check=False).returncode
    return tested or int(not checked)
