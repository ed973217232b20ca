"""A running scripts/up, as another program sees it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scripts.client import Client
from scripts.process import ROOT
from tests.integration.scripts.processes import gone, wait_until

START_SECONDS = 90


class Up:
    """The process and what it printed once it was ready."""

    def __init__(self, process: subprocess.Popen[str], facts: dict[str, Any], errors: Path) -> None:
        self.process = process
        self.facts = facts
        self.errors = errors

    @property
    def pids(self) -> dict[str, int]:
        pids: dict[str, int] = self.facts["pids"]
        return pids

    def client(self) -> Client:
        return Client(self.facts["api_url"], self.facts["api_key"])

    def said(self) -> str:
        return self.errors.read_text(encoding="utf-8")

    def stop(self) -> int:
        """Ctrl-C; gives the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(60)

    def await_end(self) -> None:
        """Wait until no process of it runs."""
        wait_until(lambda: all(gone(pid) for pid in self.pids.values()), 20)


def command(name: str, *arguments: object) -> list[str]:
    return [sys.executable, str(ROOT / "scripts" / name), *map(str, arguments)]


def variables() -> dict[str, str]:
    """The environment of a script: the running Python, and no setting of whoever runs the tests."""
    return {"PATH": os.environ.get("PATH", ""), "PLANTAIN_VENV": "skip", "HOME": os.environ.get("HOME", "/")}


@contextmanager
def running_up(
    folder: Path, *arguments: object, simulator: bool = True, more: Mapping[str, str] | None = None
) -> Iterator[Up]:
    """A stack on this data folder, killed at the end if it still runs.

    Args:
        simulator: it answers for all providers, whatever keys ``more`` holds.
        more: variables of its environment.
    """
    errors = folder.with_name(f"{folder.name}.stderr")
    quick = ["--json", "--data-dir", folder, "--port", 0, "--provider-latency-scale", 0]
    if simulator:
        quick.append("--simulator")
    with errors.open("w", encoding="utf-8") as written:
        process = subprocess.Popen(
            command("up", *quick, *arguments),
            cwd="/",
            env={**variables(), **(more or {})},
            stdout=subprocess.PIPE,
            stderr=written,
            text=True,
        )
    assert process.stdout
    with process, process.stdout:
        try:
            line = process.stdout.readline()
            assert line, errors.read_text(encoding="utf-8")
            yield Up(process, json.loads(line), errors)
        finally:
            process.kill()
