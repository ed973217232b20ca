from __future__ import annotations

from pathlib import Path

from alembic.config import Config
from alembic.script import ScriptDirectory

from api.readiness import revisions
from tests.conftest import ROOT


def test_the_head_is_the_one_that_alembic_knows() -> None:
    script = ScriptDirectory.from_config(Config(toml_file=ROOT / "pyproject.toml"))
    known = [entry.revision for entry in script.walk_revisions()]
    assert revisions() == known[::-1]


def test_revisions_are_in_the_order_of_their_parents(tmp_path: Path) -> None:
    for name, parent in (("b", '"a"'), ("a", "None"), ("c", '"b"')):
        (tmp_path / f"{name}.py").write_text(f'revision: str = "{name}"\ndown_revision = {parent}\n')
    assert revisions(tmp_path) == ["a", "b", "c"]
