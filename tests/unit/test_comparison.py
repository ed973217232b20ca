"""docs/comparison.md names proofs that exist, and says of each claim about others where it is from."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/comparison.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in PAGE.splitlines()
    if line.startswith("| **")
]
SOURCES = dict(re.findall(r"^\[([a-z-]+)\]: (https://\S+)$", PAGE, re.MULTILINE))
_PROOF = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


def _tests_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_there_is_a_column_for_everybody() -> None:
    assert len(ROWS) > 12
    assert {len(row) for row in ROWS} == {8}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0].strip("* "))
def test_what_we_say_of_ourselves_is_proved_by_a_test(row: list[str]) -> None:
    proofs = _PROOF.findall(row[1])
    assert proofs
    for file, name in proofs:
        assert (ROOT / file).exists(), file
        assert not name or name in _tests_in(ROOT / file), f"{file} has no {name}"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0].strip("* "))
def test_what_we_say_of_others_has_its_source(row: list[str]) -> None:
    for cell in row[2:]:
        cited = re.findall(r"\[\(source\)\]\[([a-z-]+)\]", cell)
        assert cited or cell in {"not documented", "hosted"}, cell
        assert set(cited) <= SOURCES.keys(), cell


def test_every_source_is_used() -> None:
    assert set(SOURCES) == set(re.findall(r"\]\[([a-z-]+)\]", PAGE))
