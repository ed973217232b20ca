"""Starts processes in order, keeps them running, stops them in reverse order, and leaves none behind.

Everything happens in the main thread: the kernel ends the children when the thread that forked them ends.
"""

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Protocol, Self

from scripts import files
from scripts.embedded import EmbeddedError
from scripts.terminal import Terminal, seconds

READY_SECONDS = 60.0
POLL_SECONDS = 0.05
#: A process that ran this long is well again: the next crash is its first.
WELL_SECONDS = 60.0
LONGEST_PAUSE = 30.0


class Server(Protocol):
    """What can be supervised: an embedded server or a program."""

    @property
    def name(self) -> str: ...
    @property
    def log(self) -> Path: ...
    @property
    def grace(self) -> float: ...
    @property
    def death_signal(self) -> signal.Signals: ...
    @property
    def pid(self) -> int: ...
    @property
    def alive(self) -> bool: ...
    @property
    def exit_code(self) -> int | None: ...
    @property
    def is_ready(self) -> Callable[[], bool]: ...
    def start(self) -> None: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...


class StartError(Exception):
    """A process did not become ready; the text says which, why and what it wrote last."""


class StoppedError(Exception):
    """Somebody asked to stop while processes were being started."""


class Supervisor:
    """Use it as a context manager: leaving it stops everything."""

    def __init__(self, terminal: Terminal) -> None:
        self.terminal = terminal
        #: How often we were asked to stop; the second time, nobody gets a grace period.
        self.asked = 0
        self._patience = 1
        self._running: list[_Entry] = []
        self._guardian = _Guardian()
        self._handlers: dict[int, object] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._handlers[number] = signal.signal(number, self._on_signal)
        self._guardian.start()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.stop()
        finally:
            self._guardian.close()
            for number, handler in self._handlers.items():
                signal.signal(number, handler)  # type: ignore[arg-type]

    @property
    def pids(self) -> dict[str, int]:
        return {entry.server.name: entry.server.pid for entry in self._running if entry.server.alive}

    @property
    def servers(self) -> dict[str, Server]:
        """By name, also those that are being started again."""
        return {entry.server.name: entry.server for entry in self._running}

    def start(self, *servers: Server) -> None:
        """Start them at the same time and return when all are ready. They are stopped at the same time, too."""
        self.launch(*servers)
        self.await_ready(*servers)

    def launch(self, *servers: Server) -> None:
        """Start them without waiting; they are stopped at the same time, before what was started earlier."""
        wave = len(self._running)
        for server in servers:
            self._check()
            self.terminal.status(f"starting {server.name}")
            entry = _Entry(server, wave)
            self._running.append(entry)
            self._begin(entry)

    def await_ready(self, *servers: Server) -> None:
        """Return when all of them are ready; raises `StartError` when one ends or takes too long."""
        waiting = [entry for entry in self._running if entry.server in servers]
        while waiting:
            self._check()
            self.terminal.status("starting " + ", ".join(entry.server.name for entry in waiting))
            for entry in list(waiting):
                if self._became_ready(entry):
                    waiting.remove(entry)
            if waiting:
                time.sleep(POLL_SECONDS)

    def run(self, program: Server) -> None:
        """Run a program to its end; raises `StartError` when that is not a success."""
        entry = _Entry(program, -1)
        self._begin(entry)
        try:
            while program.alive:
                self._check()
                self.terminal.status(program.name)
                time.sleep(POLL_SECONDS)
        finally:
            program.kill()
            self._guardian.forget(program.pid)
        if program.exit_code != 0:
            raise _failure(program, f"failed with exit code {program.exit_code}")
        self.terminal.good(program.name, seconds(entry.age))

    def watch(self, until: Callable[[], bool] = lambda: False) -> None:
        """Restart what ends, until somebody asks to stop or `until()` is true."""
        while not self.asked and not until():
            for entry in self._running:
                self._revive(entry)
            time.sleep(POLL_SECONDS)

    def stop(self) -> None:
        """Stop everything in reverse order of its start."""
        self._patience = min(self.asked, 1)
        for wave in sorted({entry.wave for entry in self._running}, reverse=True):
            self._stop([entry.server for entry in self._running if entry.wave == wave])
        self._running.clear()
        self.terminal.clear()

    def _begin(self, entry: "_Entry") -> None:
        entry.started = time.monotonic()
        try:
            entry.server.start()
        except EmbeddedError as error:
            raise StartError(str(error)) from error
        self._guardian.watch(entry.server.pid, entry.server.death_signal)

    def _became_ready(self, entry: "_Entry") -> bool:
        server = entry.server
        if not server.alive:
            raise _failure(server, f"exited with code {server.exit_code} while starting")
        if server.is_ready():
            self.terminal.good(server.name, seconds(entry.age))
            return True
        if entry.age > READY_SECONDS:
            raise _failure(server, f"did not become ready within {READY_SECONDS:.0f} s")
        return False

    def _revive(self, entry: "_Entry") -> None:
        server, now = entry.server, time.monotonic()
        if server.alive:
            return
        if entry.restart_at is None:
            self._guardian.forget(server.pid)
            entry.failures = 1 if entry.age > WELL_SECONDS else entry.failures + 1
            pause = min(2.0 ** (entry.failures - 1), LONGEST_PAUSE)
            entry.restart_at = now + pause
            self.terminal.warn(
                f"{server.name} ended with exit code {server.exit_code}; starting it again in {pause:.0f} s",
                str(server.log),
            )
        elif now >= entry.restart_at:
            entry.restart_at = None
            server.kill()  # what the last one left behind
            try:
                self._begin(entry)
            except StartError as error:
                self.terminal.bad(f"{server.name} did not start again", str(error))
            else:
                self.terminal.say(f"  {server.name} runs again, pid {server.pid}")

    def _stop(self, servers: list[Server]) -> None:
        begun = time.monotonic()
        for server in servers:
            server.terminate()
        while left := [server for server in servers if server.alive]:
            waited = time.monotonic() - begun
            for server in left:
                if waited > server.grace or self._may_end(server):
                    self.terminal.warn(f"{server.name} was still busy and has been ended")
                    server.kill()
            names = ", ".join(server.name for server in left)
            self.terminal.status(f"stopping {names} ({waited:.0f} s; Ctrl-C hurries)")
            time.sleep(POLL_SECONDS)
        for server in servers:
            if server.exit_code is not None:
                server.kill()  # its group may outlive it
                self._guardian.forget(server.pid)

    def _may_end(self, server: Server) -> bool:
        """Who asks again is in a hurry; a database is ended in the middle of its work only when its time is up."""
        return self.asked > self._patience and server.death_signal == signal.SIGKILL

    def _check(self) -> None:
        if self.asked:
            raise StoppedError

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.asked += 1


class _Entry:
    """A server and what became of it."""

    def __init__(self, server: Server, wave: int) -> None:
        self.server = server
        self.wave = wave
        self.started = time.monotonic()
        self.failures = 0
        self.restart_at: float | None = None

    @property
    def age(self) -> float:
        return time.monotonic() - self.started


class _Guardian:
    """The process of scripts/guardian.py."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        script = Path(__file__).with_name("guardian.py")
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={},
            text=True,
            start_new_session=True,
        )

    def watch(self, group: int, number: signal.Signals) -> None:
        self._tell(f"watch {group} {int(number)}\n")

    def forget(self, group: int) -> None:
        self._tell(f"forget {group}\n")

    def close(self) -> None:
        if self._process is None:
            return
        with self._ignoring_its_end():
            self._process.communicate(timeout=20)

    def _tell(self, line: str) -> None:
        with self._ignoring_its_end():
            if self._process and self._process.stdin:
                self._process.stdin.write(line)
                self._process.stdin.flush()

    @contextlib.contextmanager
    def _ignoring_its_end(self) -> Iterator[None]:
        """Somebody who kills the guardian loses the second net, not the service."""
        with contextlib.suppress(OSError, ValueError, subprocess.TimeoutExpired):
            yield


def _failure(server: Server, what: str) -> StartError:
    return StartError(f"{server.name} {what}. {files.last_words(server.log)}")
