"""Every process refuses settings that are wrong, in words, and shows no value that may be a secret."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.conftest import ROOT

#: Nothing in it looks like a secret, so no log's redactor would mask it.
CANARY = "canaryfeather"
WELL = {
    "DATABASE_URL": f"postgresql://plantain:{CANARY}@127.0.0.1:1/x",
    "REDIS_URL": f"redis://:{CANARY}@127.0.0.1:1/0",
    "GEMINI_API_KEY": CANARY,
}
WORKER = ("worker",)
BEAT = ("celery", "-A", "worker.app", "beat")
FLOWER = ("celery", "-A", "worker.app", "flower", "--port=0")
API = ("api",)
KEYS = ("shared.access", "list")
MIGRATIONS = ("alembic", "upgrade", "head")

WRONG: dict[str, tuple[Mapping[str, str], str]] = {
    "database": (
        {"DATABASE_URL": f"mysql://user:{CANARY}@db/x"},
        "DATABASE_URL: must start with postgresql://",
    ),
    "redis": ({"REDIS_URL": f"http://:{CANARY}@h"}, "REDIS_URL: must start with redis://"),
    "production": (
        {"ENVIRONMENT": "production", "GEMINI_API_KEY": "  ", "NANO_BANANA_API_KEY": CANARY},
        "GEMINI_API_KEY is missing",
    ),
    "gateway": (
        {"ENVIRONMENT": "production", "NANO_BANANA_API": "gateway", "NANO_BANANA_API_KEY": " "},
        "NANO_BANANA_API_KEY is missing",
    ),
}


def run(command: tuple[str, ...], folder: Path, given: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env={**kept, "HEARTBEAT_FILE": str(folder / "heartbeat"), **WELL, **given},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("command", [WORKER, BEAT, FLOWER, API, KEYS, MIGRATIONS], ids=" ".join)
def test_a_wrong_address_is_refused_without_showing_it(command: tuple[str, ...], tmp_path: Path) -> None:
    given, says = WRONG["database"]
    done = run(command, tmp_path, given)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert CANARY not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("wrong", ["redis", "production", "gateway"])
def test_what_is_wrong_is_said_without_what_was_given(wrong: str, tmp_path: Path) -> None:
    given, says = WRONG[wrong]
    done = run(WORKER, tmp_path, given)
    assert done.returncode == 2
    assert says in done.stderr
    assert CANARY not in done.stderr


@pytest.mark.parametrize("command", [WORKER, BEAT], ids=" ".join)
def test_limits_of_a_model_that_is_none_are_refused(command: tuple[str, ...], tmp_path: Path) -> None:
    done = run(command, tmp_path, {"MODEL_LIMITS": "gemini-flush=rpm:60"})
    assert done.returncode == 2
    first, *_ = done.stderr.splitlines()
    assert first.startswith("MODEL_LIMITS: there is no model gemini-flush; there are: ")
    assert "gemini-flash" in first
