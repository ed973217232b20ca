"""The docs name what there is: whoever adds a state, a reason, an outcome or a kind writes it down."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from shared.jobs.status import OnUnknown, Outcome, Priority, State, WaitingReason
from shared.kinds import KINDS
from shared.models.access import SCOPES

ROOT = Path(__file__).resolve().parents[2]
GLOSSARY = (ROOT / "docs/glossary.md").read_text(encoding="utf-8")
OPERATIONS = (ROOT / "docs/operations.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("word", [*State, *Outcome, *Priority, *OnUnknown, *SCOPES, *KINDS])
def test_the_glossary_names_every_word_of_the_api(word: str) -> None:
    assert f"`{word}`" in GLOSSARY


@pytest.mark.parametrize(
    "reason", [WaitingReason.RATE_LIMITED, WaitingReason.PROVIDER_UNAVAILABLE, WaitingReason.NO_WORKERS]
)
def test_operations_explain_the_reasons_that_an_operator_can_change(reason: str) -> None:
    assert reason in OPERATIONS


@pytest.mark.parametrize("outcome", list(Outcome))
def test_the_table_of_retries_has_every_outcome(outcome: str) -> None:
    assert re.search(rf"\| `{outcome}` \|", OPERATIONS)


def test_links_between_the_docs_lead_somewhere() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in pages
        for target in re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
        if not (page.parent / target).exists()
    ]
    assert broken == []


def test_decisions_are_numbered_without_a_gap() -> None:
    numbers = sorted(int(path.name[:4]) for path in (ROOT / "docs/decisions").glob("*.md"))
    assert numbers == list(range(1, len(numbers) + 1))
