"""docs/examples.md is true: each of its examples runs against a real stack and prints what the comment above it says."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest

from scripts.process import ROOT
from tests.e2e.stack import command

pytestmark = pytest.mark.timeout(240)
PAGE = ROOT / "docs/examples.md"
_BLOCK = re.compile(
    r"(?:<!-- expect: (?P<expected>[^\n]*) -->\n)?```(?P<language>\w*)\n(?P<code>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
_PROGRAMS = {"bash": ["bash", "-euo", "pipefail"], "python": ["python3"], "javascript": ["node"]}
_SUFFIXES = {"bash": "sh", "python": "py", "javascript": "mjs"}


@dataclass(frozen=True)
class Example:
    name: str
    language: str
    code: str
    expected: str | None


def _examples() -> list[Example]:
    found: list[Example] = []
    for section in re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        title = section.partition("\n")[0].lower().replace(" ", "-")
        for number, block in enumerate(_BLOCK.finditer(section), 1):
            name = f"{title}-{number}-{block['language']}"
            found.append(Example(name, block["language"], block["code"], block["expected"]))
    return found


EXAMPLES = _examples()


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PATH with `plantain` and this Python."""
    folder = tmp_path_factory.mktemp("tools")
    for name, words in (("plantain", command("plantain")), ("python3", [sys.executable])):
        script = folder / name
        script.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
        script.chmod(0o755)
    return folder


Ran = dict[str, "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def ran(
    request: pytest.FixtureRequest,
    surroundings: dict[str, str],
    tools: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Ran:
    """What the chosen examples printed; several run at a time, as most of theirs is waiting."""
    chosen = [
        cast(Example, item.callspec.params["example"])
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.module is request.module and hasattr(item, "callspec")
    ]
    path = f"{tools}{os.pathsep}{surroundings['PATH']}"
    environment = {**surroundings, "PATH": path, "PYTHONPATH": str(ROOT), "no_proxy": "*"}

    def run(example: Example) -> subprocess.CompletedProcess[str]:
        folder = tmp_path_factory.mktemp("example")
        file = folder / f"example.{_SUFFIXES[example.language]}"
        file.write_text(example.code)
        (folder / "empty").mkdir()
        return subprocess.run(
            [*_PROGRAMS[example.language], str(file)],
            cwd=folder / "empty",
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    runnable = [example for example in chosen if not missing(example)]
    with ThreadPoolExecutor(3) as pool:
        return dict(zip((example.name for example in runnable), pool.map(run, runnable), strict=True))


def missing(example: Example) -> list[str]:
    """Programs that the example needs and this machine lacks; Python and `plantain` it has."""
    needed = {word for word in ("curl", "jq") if word in example.code} | set(_PROGRAMS[example.language][:1])
    return sorted(word for word in needed - {"python3"} if not shutil.which(word))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_an_example_prints_what_the_page_says(example: Example, ran: Ran) -> None:
    assert example.expected, "every example says what it prints: <!-- expect: … -->"
    if lacking := missing(example):
        pytest.skip(f"this machine has no {' and no '.join(lacking)}")
    done = ran[example.name]
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(example.expected, done.stdout.strip(), re.MULTILINE), done.stdout + done.stderr


def test_every_topic_has_every_language() -> None:
    assert len(EXAMPLES) > 40
    for topic in (
        "submit",
        "poll",
        "wait",
        "follow",
        "pictures",
        "cancel",
        "list-and-search",
        "send-again",
        "replay",
    ):
        languages = {example.language for example in EXAMPLES if example.name.startswith(f"{topic}-")}
        assert languages == {"bash", "python", "javascript"}, topic
