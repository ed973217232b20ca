"""The checks that every change passes, in one place: scripts/check, scripts/test and CI run these."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from scripts.process import ROOT
from scripts.terminal import Terminal, seconds

#: Python without a file name's ending, which ruff does not find by itself.
EXECUTABLES = sorted(path.name for path in (ROOT / "scripts").iterdir() if path.is_file() and not path.suffix)
SOURCES = [".", *(f"scripts/{name}" for name in EXECUTABLES)]


@dataclass(frozen=True)
class Step:
    """A check: arguments for Python. `fix` is what mends what it finds, where something can."""

    title: str
    arguments: Sequence[str]
    fix: Sequence[str] = ()


CHECKS = (
    Step(
        "ruff check",
        ["-m", "ruff", "check", "--quiet", "--output-format=concise", *SOURCES],
        ["-m", "ruff", "check", "--quiet", "--fix", *SOURCES],
    ),
    Step(
        "ruff format",
        ["-m", "ruff", "format", "--quiet", "--check", *SOURCES],
        ["-m", "ruff", "format", "--quiet", *SOURCES],
    ),
    Step("mypy", ["-m", "mypy", "--no-error-summary"]),
    Step(
        "import contracts",
        ["-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-logo"],
    ),
    Step("requirements", ["scripts/lock", "--check"]),
)


def run_checks(terminal: Terminal, *, fix: bool = False) -> bool:
    """Run all checks, two at a time, and say how each went; True when all are well."""
    if fix:
        for step in CHECKS:
            if step.fix:
                _run(step.fix)
    with ThreadPoolExecutor(max_workers=2) as pool:
        runs = [(step, pool.submit(_timed, step)) for step in CHECKS]
        well = True
        for step, future in runs:
            while not future.done():
                terminal.status(step.title)
                time.sleep(0.1)
            done, took = future.result()
            well = well and done.returncode == 0
            _report(terminal, step, done, took)
    return well


def _timed(step: Step) -> tuple[subprocess.CompletedProcess[str], float]:
    begun = time.monotonic()
    return _run(step.arguments), time.monotonic() - begun


def _run(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "NO_COLOR": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def _report(terminal: Terminal, step: Step, done: subprocess.CompletedProcess[str], took: float) -> None:
    output = done.stdout.strip()
    if done.returncode:
        terminal.bad(step.title, seconds(took))
        terminal.say("\n".join(f"    {line}" for line in output.splitlines()))
    elif "NOT CHECKED" in output:
        terminal.warn(step.title, f"{seconds(took)}  {output}")
    else:
        terminal.good(step.title, seconds(took))
