"""The processes of a stack: each can be started, ended and frozen; none outlives the tests."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from scripts import process
from scripts.embedded import EmbeddedPostgres, EmbeddedServer, EmbeddedValkey
from scripts.process import ROOT

START_SECONDS = 40.0


class Guardian:
    """Ends what is left when the tests themselves are killed, even what is frozen: scripts/guardian.py."""

    def __init__(self) -> None:
        script = ROOT / "scripts" / "guardian.py"
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(script)],
            stdin=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def watch(self, group: int) -> None:
        self._tell(f"watch {group} {int(signal.SIGKILL)}\n")

    def forget(self, group: int) -> None:
        self._tell(f"forget {group}\n")

    def close(self) -> None:
        self._process.communicate(timeout=20)

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line)
        self._process.stdin.flush()


class Part(ABC):
    """A process that tests break. Start it from the main thread: the kernel then ends it with the tests."""

    def __init__(self, name: str, log: Path, guardian: Guardian) -> None:
        self.name = name
        self.log = log
        self._guardian = guardian
        self._frozen: list[int] = []

    @property
    @abstractmethod
    def process(self) -> subprocess.Popen[bytes]:
        """The one that runs, or ran last."""

    @abstractmethod
    def _launch(self) -> None: ...

    @abstractmethod
    def ready(self) -> bool: ...

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    @property
    def exit_code(self) -> int | None:
        return self.process.poll()

    def start(self) -> None:
        """Begins to start; see ``ready``."""
        self._launch()
        self._guardian.watch(self.pid)

    def terminate(self) -> None:
        if self.alive:
            self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL for it and all it has started; returns when they are gone."""
        if self.alive:
            process.signal_all(process.family(self.pid), signal.SIGKILL)
        process.kill_group(self.process)
        self._guardian.forget(self.pid)
        self._frozen = []

    def freeze(self) -> None:
        """SIGSTOP for it and its children."""
        self._frozen = process.family(self.pid)
        process.signal_all(self._frozen, signal.SIGSTOP)

    def thaw(self) -> None:
        process.signal_all(self._frozen[::-1], signal.SIGCONT)
        self._frozen = []

    @property
    def frozen(self) -> bool:
        return bool(self._frozen)


class Program(Part):
    """``python -m …`` with exactly this environment."""

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        guardian: Guardian,
        is_ready: Callable[[], bool] | None = None,
    ) -> None:
        super().__init__(name, folder / "logs" / f"{name}.log", guardian)
        self._arguments = arguments
        self.environment = dict(environment)
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._heartbeat = folder / f"{name}.heartbeat"
        self._is_ready = is_ready or self._heartbeat.exists

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, f"{self.name} has not been started"
        return self._process

    def _launch(self) -> None:
        self._heartbeat.unlink(missing_ok=True)
        base = {"PATH": os.environ.get("PATH", ""), "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        # Not in the project's folder, where an .env may lie.
        self._process = process.spawn(
            [sys.executable, "-m", *self._arguments],
            environment={**base, **self.environment, "HEARTBEAT_FILE": str(self._heartbeat)},
            log=self.log,
            cwd=self._folder,
        )

    def ready(self) -> bool:
        return self.alive and self._is_ready()


class Server(Part):
    """An embedded server; it keeps its port."""

    def __init__(self, server: EmbeddedServer, guardian: Guardian) -> None:
        super().__init__(server.name, server.log, guardian)
        self.server = server

    @property
    def process(self) -> subprocess.Popen[bytes]:
        return self.server.process

    def _launch(self) -> None:
        self.server.start()

    def ready(self) -> bool:
        return self.server.is_ready()

    def terminate(self) -> None:
        """Its own way of an orderly end."""
        self.server.terminate()

    def forget_data(self) -> None:
        """Valkey comes back empty, as a Redis without persistence does. It must not run."""
        assert isinstance(self.server, EmbeddedValkey) and not self.alive
        shutil.rmtree(self.server.data)


def postgres(folder: Path, guardian: Guardian) -> Server:
    """As durable as in production: fsync and synchronous commits are on, unlike in the other tests."""
    return Server(EmbeddedPostgres(folder), guardian)


def valkey(folder: Path, guardian: Guardian) -> Server:
    """With its append-only file."""
    return Server(EmbeddedValkey(folder), guardian)


def await_ready(*parts: Part) -> None:
    """Returns when all are ready; fails when one ends or takes too long."""
    deadline = time.monotonic() + START_SECONDS
    for part in parts:
        while not part.ready():
            assert part.alive, f"{part.name} ended with {part.exit_code} while starting"
            assert time.monotonic() < deadline, f"{part.name} did not become ready"
            time.sleep(0.02)
