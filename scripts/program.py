"""One of our own processes: a Python program with a log, a readiness check and a way to stop."""

import contextlib
import http.client
import signal
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from scripts import ports, process
from scripts.spawned import Spawned


@dataclass
class Program(Spawned):
    """A process that can be started again and again.

    Attributes:
        command: the program (an absolute path) and its arguments; never a secret, everybody can read it.
        environment: all that the process gets to see; secrets go here.
        is_ready: asked again and again after the start, until it is true.
        grace: seconds between `stop_signal` and SIGKILL.
        cwd: where it runs; Python finds the packages of that folder.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(repr=False)
    log: Path
    is_ready: Callable[[], bool] = lambda: True
    grace: float = 5
    stop_signal: signal.Signals = signal.SIGTERM
    stdin: bytes = field(default=b"", repr=False)
    cwd: Path = process.ROOT
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    #: What the kernel and the guardian send when the supervisor is gone.
    death_signal: ClassVar[signal.Signals] = signal.SIGKILL

    def start(self) -> None:
        """Start the process; it may take a while until `is_ready()`."""
        self._process = process.spawn(
            self.command,
            environment=self.environment,
            log=self.log,
            cwd=self.cwd,
            death_signal=self.death_signal,
            stdin=self.stdin,
        )

    def terminate(self) -> None:
        """Ask it to stop."""
        if self.alive:
            self.process.send_signal(self.stop_signal)

    def kill(self) -> None:
        """End it and what it left behind."""
        if self._process is not None:
            process.kill_group(self._process)


def listens(port: int) -> bool:
    """Whether somebody accepts connections there."""
    with contextlib.suppress(OSError), socket.create_connection((ports.HOST, port), timeout=0.5):
        return True
    return False


def answers(port: int, path: str) -> bool:
    """Whether `GET path` is answered with 200."""
    connection = http.client.HTTPConnection(ports.HOST, port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
