"""When requirements/*.txt fit pyproject.toml."""

import io
from pathlib import Path

import pytest

from scripts.cli import lock
from scripts.terminal import Terminal


@pytest.fixture
def written() -> io.StringIO:
    return io.StringIO()


def check(written: io.StringIO) -> int:
    return lock.check(Terminal(written))


def test_files_that_fit_pass(written: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "compile_file", lambda *_: None)
    assert check(written) == 0
    assert written.getvalue() == ""


def test_missing_pin_fails_with_a_diff(written: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    def compile_file(name: str, folder: Path) -> None:
        with (folder / "requirements" / f"{name}.txt").open("a") as file:
            file.write("new-package==1.0\n")

    monkeypatch.setattr(lock, "compile_file", compile_file)
    assert check(written) == 1
    assert "+new-package==1.0" in written.getvalue()
    assert "Run scripts/lock" in written.getvalue()


def test_index_out_of_reach_is_a_warning(written: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    def compile_file(*_: object) -> None:
        raise lock.UnreachableError

    monkeypatch.setattr(lock, "compile_file", compile_file)
    assert check(written) == 0
    assert "NOT CHECKED" in written.getvalue()


@pytest.mark.parametrize("text", ["error: Failed to fetch: http://x/", "the network was disabled"])
def test_network_failures_are_told_from_conflicts(text: str) -> None:
    assert lock.UNREACHABLE.search(text)
    assert not lock.UNREACHABLE.search("No solution found when resolving dependencies")


def test_pins_leave_hashes_and_comments_out(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("# made by\na==1 ; python_version > '3' \\\n    --hash=sha256:00\n    # via b\n")
    assert lock.pins(path) == ["a==1 ; python_version > '3'"]
