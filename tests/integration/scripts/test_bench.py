"""scripts/bench: one part of it, at its shortest, from the command line to the report."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_submits_are_measured_beside_the_baselines(tmp_path: Path) -> None:
    found = tmp_path / "bench.json"
    run = subprocess.run(
        [
            *(ROOT / "scripts/bench", "submit", "--connections", "8,32"),
            *("--seconds", "0.3", "--repeats", "1", "--json", str(found)),
        ],
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "submit: 32 connections (median of 1)" in run.stdout
    report = json.loads(found.read_text(encoding="utf-8"))
    rates = {(each["case"], each["subject"]): each["figures"]["req/s"] for each in report["samples"]}
    assert {subject for _, subject in rates} == {"plantain", "tutorial", "empty handler"}
    assert len(rates) == 6
    assert all(rate > 10 for rate in rates.values())
    assert report["machine"]["PostgreSQL"]


def test_a_part_that_does_not_exist_is_named() -> None:
    run = subprocess.run(
        [ROOT / "scripts/bench", "sumbit"], capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 2
    assert "sumbit is no part; there are: submit, poll" in run.stderr
