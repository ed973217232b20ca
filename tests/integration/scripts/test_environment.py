"""The environment of the scripts: when it is current, and what is said when it cannot be made."""

import ast
import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import environment
from scripts.process import ROOT
from scripts.steps import EXECUTABLES


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The scripts alone, in a folder whose name has a space, with a module that says where it runs."""
    root = tmp_path / "a clone"
    (root / "scripts" / "cli").mkdir(parents=True)
    (root / "requirements").mkdir()
    (root / "requirements" / "dev.txt").write_text("")
    for name in ("__init__.py", "environment.py", "cli/__init__.py", "up"):
        shutil.copy(ROOT / "scripts" / name, root / "scripts" / name)
    (root / "scripts" / "cli" / "up.py").write_text(
        "import sys\ndef main(arguments):\n    print(sys.prefix, *arguments, sep='\\n')\n    return 3\n"
    )
    return root


def run_up(clone: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run scripts/up of the clone from another folder, with this environment and nothing else."""
    return subprocess.run(
        [sys.executable, clone / "scripts" / "up", *arguments],
        cwd="/",
        env=variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_first_run_builds_the_environment_and_later_ones_use_it(clone: Path) -> None:
    first = run_up(clone, "one", "two words")
    assert first.stdout.splitlines() == [str(clone / ".venv"), "one", "two words"], first.stderr
    assert first.returncode == 3
    assert "making .venv" in first.stderr

    second = run_up(clone)
    assert second.stdout.splitlines() == [str(clone / ".venv")]
    assert second.stderr == ""


def test_change_of_requirements_rebuilds(clone: Path) -> None:
    run_up(clone)
    (clone / "requirements" / "dev.txt").write_text("# changed\n")
    assert "making .venv" in run_up(clone).stderr


def test_half_made_environment_is_rebuilt(clone: Path) -> None:
    run_up(clone)
    (clone / ".venv" / "plantain-stamp").unlink()
    (clone / ".venv" / "bin" / "python").unlink()
    assert run_up(clone).returncode == 3


def test_two_at_once_build_one_environment(clone: Path) -> None:
    command = [sys.executable, str(clone / "scripts" / "up")]
    both = [subprocess.Popen(command, cwd="/", env={}, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=60)[1] for process in both]
    assert [process.returncode for process in both] == [3, 3], said
    assert sum("making .venv:" in text for text in said) == 1, said


def test_packages_that_cannot_be_had_are_explained(clone: Path) -> None:
    (clone / "requirements" / "dev.txt").write_text(f"absent-package==1 --hash=sha256:{'0' * 64}\n")
    run = run_up(clone, PIP_NO_INDEX="1", PIP_CONFIG_FILE=os.devnull)
    assert run.returncode == 1
    assert "installing 1 packages failed" in run.stderr
    assert "The package index could not be reached" in run.stderr
    assert not (clone / ".venv" / "plantain-stamp").exists()


def test_wrong_hash_is_refused(clone: Path, tmp_path: Path) -> None:
    (tmp_path / "wheel-1-py3-none-any.whl").write_bytes(b"not what was named")
    (clone / "requirements" / "dev.txt").write_text(f"wheel==1 --hash=sha256:{'0' * 64}\n")
    run = run_up(clone, PIP_NO_INDEX="1", PIP_FIND_LINKS=str(tmp_path), PIP_CONFIG_FILE=os.devnull)
    assert run.returncode == 1
    assert "differs from the one that requirements/dev.txt names" in run.stderr


def test_folder_that_cannot_be_written_is_explained(clone: Path) -> None:
    (clone / ".cache").write_text("a file where a folder should be")
    run = run_up(clone)
    assert run.returncode == 1
    assert "cannot use" in run.stderr
    assert "PLANTAIN_VENV=skip" in run.stderr
    assert "Traceback" not in run.stderr


def test_skip_uses_the_running_python(clone: Path) -> None:
    run = run_up(clone, PLANTAIN_VENV="skip")
    assert run.stdout.splitlines() == [sys.prefix]
    assert not (clone / ".venv").exists()


def test_skip_names_a_missing_package(clone: Path) -> None:
    (clone / "scripts" / "cli" / "up.py").write_text("import a_package_that_nobody_has\n")
    run = run_up(clone, PLANTAIN_VENV="skip")
    assert run.returncode == 1
    assert "has no module a_package_that_nobody_has" in run.stderr


def test_chosen_python_that_does_not_exist_is_explained(clone: Path) -> None:
    run = run_up(clone, PLANTAIN_PYTHON="/no/such/python")
    assert run.returncode == 1
    assert "PLANTAIN_PYTHON is /no/such/python" in run.stderr


def test_chosen_python_may_be_a_wrapper(clone: Path, tmp_path: Path) -> None:
    wrapper = tmp_path / "wrapper"
    wrapper.write_text(f'#!/bin/sh\nexec {environment._base_python()} "$@"\n')
    wrapper.chmod(0o755)
    assert run_up(clone, PLANTAIN_PYTHON=str(wrapper)).returncode == 3


def test_old_python_gets_plain_words(clone: Path) -> None:
    starter = (
        "import sys; sys.version_info = (3, 8, 1); sys.argv = ['scripts/up']; sys.path.insert(0, sys.path.pop());"
        "from scripts.environment import run; run('scripts.cli.up')"
    )
    run = subprocess.run(
        [sys.executable, "-c", starter], cwd=clone, env={}, capture_output=True, text=True, check=False
    )
    assert run.returncode == 1
    assert "Plantain needs Python 3.11 or newer; this is 3.8" in run.stderr


def test_what_an_old_python_reads_is_old_syntax() -> None:
    for name in ("__init__.py", "environment.py", *EXECUTABLES):
        ast.parse((ROOT / "scripts" / name).read_text(), feature_version=(3, 6))


@pytest.mark.parametrize(
    ("output", "hint"),
    [
        ("Error: No module named ensurepip", "apt install python3"),
        ("OSError: [Errno 28] No space left on device", "disk is full"),
        ("NewConnectionError: refused", "index could not be reached"),
        ("something else", str(environment.LOG)),
    ],
)
def test_hints(output: str, hint: str) -> None:
    assert hint in environment._hint(output)


def test_executables_can_be_executed() -> None:
    for name in EXECUTABLES:
        assert os.access(ROOT / "scripts" / name, os.X_OK), (name, errno.EACCES)
