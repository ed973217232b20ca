"""scripts/test: what CI runs. With arguments, only pytest with these arguments."""

import os
import subprocess
import sys
from collections.abc import Sequence

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
#: More than half of a test's time is waiting, so several run at once; those of one file one after the other. Whole stacks, whose
#: processes are killed at moments that count, run by themselves. Coverage is judged at the end of all.
AT_ONCE = [
    "-q",
    "-n",
    str(min(8, 2 * (os.cpu_count() or 2))),
    "--dist",
    "loadfile",
    "--cov",
    "--cov-report=",
    "--cov-fail-under=0",
]
IN_TURN = ["--cov", "--cov-append", "--cov-report=term"]
EVERYTHING = (
    [*AT_ONCE, "--durations=10", "tests", "--ignore=tests/e2e"],
    [*IN_TURN, "--durations=10", "tests/e2e"],
)


def main(arguments: list[str]) -> int:
    if arguments in (["-h"], ["--help"]):
        print(HELP, end="")
        return 0
    if arguments:
        return _pytest([word for argument in arguments for word in OPTIONS.get(argument, [argument])])
    failed = [not steps.run_checks(Terminal()), *map(_pytest, EVERYTHING)]
    return int(any(failed))


def _pytest(arguments: Sequence[str]) -> int:
    return subprocess.run([sys.executable, "-m", "pytest", *arguments], cwd=ROOT, check=False).returncode
