"""scripts/demo, as somebody runs it who has just cloned Plantain."""

import subprocess
import time
from pathlib import Path

import pytest
from PIL import Image

from scripts.process import ROOT

from .stack import command, variables

pytestmark = pytest.mark.timeout(120)


def test_demo_makes_a_text_and_a_picture_and_leaves_nothing(tmp_path: Path) -> None:
    before = {path.name for path in (ROOT / ".plantain").glob("demo-*")}
    begun = time.monotonic()
    run = subprocess.run(
        command("demo", "--output", tmp_path),
        cwd="/",
        # A key that would be paid for: it must not be used.
        env={**variables(), "GEMINI_API_KEY": "not-a-real-key", "NANO_BANANA_API_KEY": "not-a-real-key"},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert time.monotonic() - begun < 60
    (picture,) = tmp_path.iterdir()
    assert str(picture) in run.stdout
    with Image.open(picture) as image:
        assert image.width > 0
    assert "text.generate   succeeded" in run.stdout
    assert "image.generate  succeeded" in run.stdout
    assert "would cost $" in run.stdout
    assert "No provider was called and nothing was paid" in run.stdout
    left = {path.name for path in (ROOT / ".plantain").glob("demo-*")} - before
    assert left == set()
