"""Fixtures of the fault suite, its seed, and its table."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from random import Random, SystemRandom
from typing import Protocol

import pytest

from scripts import files
from tests.e2e.faults.harness import Servers, Stack
from tests.e2e.faults.report import Line, table

_HERE = Path(__file__).parent
_LINES = pytest.StashKey[list[Line]]()
_FAILED = pytest.StashKey[bool]()
_SEED = pytest.StashKey[int]()
_STACKS = pytest.StashKey[list[Stack]]()


class NewStack(Protocol):
    """Starts a stack: see ``harness.Stack``."""

    def __call__(self, *, workers: int = 2, **options: object) -> Stack: ...


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--faults-seed", type=int, help="the seed of the fault suite's random moments")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "fault(number, name): which fault of the table a test proves")
    given = config.getoption("--faults-seed", default=None) or os.environ.get("FAULTS_SEED")
    config.stash[_SEED] = int(given) if given else SystemRandom().randrange(1, 100_000)
    config.stash[_LINES] = []


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The slow ones run where this folder, or a file in it, was asked for by name: ``scripts/test --faults``."""
    here = [item for item in items if item.path.is_relative_to(_HERE)]
    for item in here:
        item.add_marker(pytest.mark.timeout(300))
    if any("e2e/faults" in argument for argument in config.args):
        return
    slow = [item for item in here if item.get_closest_marker("slow")]
    if slow:
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    lines = config.stash.get(_LINES, [])
    if lines:
        terminalreporter.section(f"faults (again: scripts/test --faults --faults-seed {config.stash[_SEED]})")
        for row in table(lines):
            terminalreporter.write_line(row)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    stacks = item.stash.get(_STACKS, [])
    if call.when == "call" and report.failed:
        item.stash[_FAILED] = True
        report.sections.append(("seed", str(item.config.stash[_SEED])))
        for stack in stacks:
            for part in stack.parts.values():
                report.sections.append((f"log of {part.name}", "\n".join(files.tail(part.log, 40))))
    return report


@pytest.fixture(scope="session")
def servers(request: pytest.FixtureRequest) -> Iterator[Servers]:
    """Directly below the system's folder for temporary files, as root's servers need it."""
    with tempfile.TemporaryDirectory(prefix="plantain-faults-", ignore_cleanup_errors=True) as folder:
        made = Servers(Path(folder), request.config.stash[_SEED])
        try:
            made.start()
            yield made
        finally:
            made.close()


@pytest.fixture
def new_stack(request: pytest.FixtureRequest, servers: Servers) -> Iterator[Callable[..., Stack]]:
    """Starts the stack of a test. The test must have it verified, or it proves nothing."""
    stacks: list[Stack] = []
    request.node.stash[_STACKS] = stacks
    marker = request.node.get_closest_marker("fault")
    assert marker is not None, "mark the test with its fault: @pytest.mark.fault(number, name)"

    def make(**options: object) -> Stack:
        servers.heal()
        servers.forget()
        folder = servers.folder / f"{request.node.name[:60]}-{len(stacks)}"
        random = Random(f"{servers.seed} {request.node.name}")
        stack = Stack(servers, folder, random, **options)  # type: ignore[arg-type]
        stacks.append(stack)
        stack.begin()
        return stack

    yield make
    for stack in stacks:
        stack.close()
        request.config.stash[_LINES] += stack.line(*marker.args)
    servers.heal()
    if not request.node.stash.get(_FAILED, False):
        assert all(stack.lines for stack in stacks), "the test did not have its stack verified"
