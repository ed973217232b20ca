"""scripts/lock: compile requirements/*.txt from pyproject.toml, with hashes and without download addresses."""

import argparse
import difflib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from scripts.process import ROOT
from scripts.terminal import Terminal

#: The file, and what tells its compilation from that of the others. base comes first: the others build on it.
FILES = {
    "base": [],
    "dev": ["--group", "dev", "-c", "requirements/base.txt"],
    "legacy-gemini": ["--extra", "legacy-gemini", "-c", "requirements/base.txt"],
}
COMMAND = [
    *("pip", "compile", "pyproject.toml", "--quiet", "--universal", "--python-version", "3.11"),
    *("--generate-hashes", "--no-emit-index-url", "--custom-compile-command", "scripts/lock"),
]
UNREACHABLE = re.compile(r"Failed to fetch|error sending request|Request failed after|network was disabled")


class UnreachableError(Exception):
    """The package index could not be asked."""


class CompileError(Exception):
    """pyproject.toml cannot be satisfied; the text is uv's."""


def main(arguments: list[str]) -> int:
    parsed = _parser().parse_args(arguments)
    terminal = Terminal()
    try:
        if parsed.check:
            return check(terminal)
        for name in FILES:
            terminal.status(f"compiling requirements/{name}.txt")
            compile_file(name, ROOT, upgrade=parsed.upgrade)
            terminal.good(f"requirements/{name}.txt")
    except UnreachableError:
        terminal.bad(
            "the package index could not be reached. Check the network, HTTPS_PROXY and UV_INDEX_URL."
        )
        return 1
    except CompileError as error:
        terminal.bad(str(error))
        return 1
    return 0


def check(terminal: Terminal) -> int:
    """Whether the files satisfy pyproject.toml. A newer release is no reason to fail: the present pins are kept."""
    try:
        changes = differences()
    except UnreachableError:
        terminal.warn(
            "NOT CHECKED: the package index could not be reached, so requirements/*.txt may be out of date"
        )
        return 0
    if not changes:
        return 0
    terminal.say("\n".join(changes))
    terminal.bad("requirements/*.txt do not fit pyproject.toml. Run scripts/lock and commit what it changes.")
    return 1


def differences() -> list[str]:
    """What compiling would change in the pins, as a diff. Nothing of the project is written."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        shutil.copy(ROOT / "pyproject.toml", copy)
        shutil.copytree(ROOT / "requirements", copy / "requirements")
        changes: list[str] = []
        for name in FILES:
            path = Path("requirements") / f"{name}.txt"
            compile_file(name, copy)
            old, new = pins(ROOT / path), pins(copy / path)
            changes += difflib.unified_diff(
                old, new, f"{path} (committed)", f"{path} (wanted)", "", "", 0, ""
            )
        return changes


def pins(path: Path) -> list[str]:
    """The lines that name a version; hashes and comments may differ between indexes."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.removesuffix("\\").strip() for line in lines if line[:1].isalnum()]


def compile_file(name: str, folder: Path, *, upgrade: bool = False) -> None:
    """Compile one file in `folder`; its present pins stay where they can. Raises the errors above."""
    command = [sys.executable, "-m", "uv", *COMMAND, *FILES[name], "-o", f"requirements/{name}.txt"]
    if upgrade:
        command.append("--upgrade")
    environment = {**os.environ, "UV_CACHE_DIR": str(ROOT / ".cache" / "uv"), "UV_NO_PROGRESS": "1"}
    done = subprocess.run(
        [*command, "--python", sys.executable],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise (UnreachableError if UNREACHABLE.search(done.stderr) else CompileError)(done.stderr.strip())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/lock",
        description="Compile requirements/{base,dev,legacy-gemini}.txt from pyproject.toml, keeping present pins.",
    )
    parser.add_argument("--check", action="store_true", help="only say whether they are up to date")
    parser.add_argument(
        "--upgrade", action="store_true", help="take the newest releases that pyproject.toml allows"
    )
    return parser
