"""The supervisor, with processes that do nothing."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from scripts.process import ROOT
from scripts.program import Program
from scripts.supervisor import StartError, StoppedError, Supervisor
from scripts.terminal import Terminal

from .processes import gone, wait_until

SLEEP = "import time; time.sleep(60)"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
PARENT = "import subprocess, sys, time; print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']).pid, flush=True); time.sleep(60)"


class Bench:
    """A supervisor and what it said, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.written = io.StringIO()
        self.supervisor = Supervisor(Terminal(self.written))

    def program(
        self, name: str, code: str, is_ready: Callable[[], bool] = lambda: True, grace: float = 5
    ) -> Program:
        command = [sys.executable, "-c", code]
        return Program(name, command, {}, self.folder / f"{name}.log", is_ready=is_ready, grace=grace)

    def is_up(self, name: str) -> bool:
        return "up" in self.log(name)

    def log(self, name: str) -> str:
        path = self.folder / f"{name}.log"
        return path.read_text() if path.exists() else ""


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_starts_in_order_and_stops_in_reverse(bench: Bench) -> None:
    order = bench.folder / "order"
    code = (
        "import signal, sys, time\n"
        f"def stop(*_): open({str(order)!r}, 'a').write('NAME\\n'); sys.exit()\n"
        "signal.signal(signal.SIGTERM, stop); print('up', flush=True); time.sleep(60)"
    )
    with bench.supervisor as supervisor:
        for name in ("first", "second"):
            supervisor.start(
                bench.program(name, code.replace("NAME", name), is_ready=partial(bench.is_up, name))
            )
        pids = supervisor.pids
        assert list(pids) == ["first", "second"]
    assert order.read_text().split() == ["second", "first"]
    assert all(gone(pid) for pid in pids.values())


def test_failure_names_process_code_and_last_words(bench: Bench) -> None:
    broken = bench.program("broken", "print('my last words'); raise SystemExit(7)", is_ready=lambda: False)
    with (
        bench.supervisor as supervisor,
        pytest.raises(StartError, match=r"broken exited with code 7") as failure,
    ):
        supervisor.start(bench.program("well", SLEEP), broken)
    assert "my last words" in str(failure.value)
    assert str(broken.log) in str(failure.value)


def test_a_command_that_fails_is_a_failure(bench: Bench) -> None:
    with bench.supervisor as supervisor:
        supervisor.run(bench.program("fine", ""))
        with pytest.raises(StartError, match="wrong failed with exit code 3"):
            supervisor.run(bench.program("wrong", "raise SystemExit(3)"))


def test_crashed_process_is_started_again(bench: Bench) -> None:
    with bench.supervisor as supervisor:
        program = bench.program("phoenix", SLEEP)
        supervisor.start(program)
        first = program.pid
        os.kill(first, signal.SIGKILL)
        deadline = time.monotonic() + 10
        supervisor.watch(
            until=lambda: (program.alive and program.pid != first) or time.monotonic() > deadline
        )
        assert program.pid != first
        assert program.alive
    assert "phoenix ended with exit code -9; starting it again in 1 s" in bench.written.getvalue()
    assert gone(program.pid)


def test_process_that_does_not_stop_is_ended_after_its_grace(bench: Bench) -> None:
    program = bench.program("stubborn", STUBBORN, is_ready=lambda: "up" in bench.log("stubborn"), grace=0.3)
    with bench.supervisor as supervisor:
        supervisor.start(program)
    assert gone(program.pid)
    assert "stubborn was still busy" in bench.written.getvalue()


def test_signal_ends_the_watch_and_a_second_one_hurries(bench: Bench) -> None:
    program = bench.program("stubborn", STUBBORN, is_ready=lambda: "up" in bench.log("stubborn"), grace=60)
    begun = time.monotonic()
    with bench.supervisor as supervisor:
        supervisor.start(program)
        os.kill(os.getpid(), signal.SIGTERM)
        supervisor.watch()
        os.kill(os.getpid(), signal.SIGINT)
    assert gone(program.pid)
    assert time.monotonic() - begun < 40


def test_signal_while_starting_stops_what_was_started(bench: Bench) -> None:
    started = bench.program("started", SLEEP)
    with pytest.raises(StoppedError), bench.supervisor as supervisor:
        supervisor.start(started)
        os.kill(os.getpid(), signal.SIGINT)
        supervisor.start(bench.program("never", SLEEP, is_ready=lambda: False))
    assert gone(started.pid)
    assert bench.log("never") == ""


def test_what_a_process_left_behind_is_stopped_too(bench: Bench) -> None:
    with bench.supervisor as supervisor:
        supervisor.start(bench.program("parent", PARENT, is_ready=lambda: bench.log("parent") != ""))
        grandchild = int(bench.log("parent"))
        assert not gone(grandchild)
    assert gone(grandchild)


def test_nothing_outlives_a_killed_supervisor(tmp_path: Path) -> None:
    driver = (
        "import json, sys, time; from pathlib import Path\n"
        "from scripts.program import Program; from scripts.supervisor import Supervisor; from scripts.terminal import Terminal\n"
        f"log = Path({str(tmp_path / 'parent.log')!r})\n"
        "with Supervisor(Terminal(sys.stderr)) as supervisor:\n"
        f"    code = [{PARENT!r}, {STUBBORN!r}]\n"
        "    wanted = [Program('parent', [sys.executable, '-c', code[0]], {}, log, is_ready=lambda: log.exists() and log.read_text()),\n"
        "        Program('stubborn', [sys.executable, '-c', code[1]], {}, log.with_name('other.log'))]\n"
        "    supervisor.start(*wanted)\n"
        "    pids = [*supervisor.pids.values(), int(log.read_text()), supervisor._guardian._process.pid]\n"
        "    print(json.dumps(pids), flush=True)\n"
        "    supervisor.watch()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", driver], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    with process, process.stdout:
        pids = json.loads(process.stdout.readline())
        assert len(pids) == 4
        assert not any(gone(pid) for pid in pids)
        process.kill()
    wait_until(lambda: all(gone(pid) for pid in pids), 10)
