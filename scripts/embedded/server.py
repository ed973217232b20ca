"""What the two servers have in common: a folder, a lock, a port, one process and its log."""

import contextlib
import errno
import os
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar, Self

from scripts import files, ports, process
from scripts.spawned import Spawned

#: How long a server may take to answer after its start, in seconds; recovery after a crash is part of it.
START_SECONDS = 60.0
#: How long the processes of a predecessor may take to leave, in seconds.
LOCK_SECONDS = 20.0
STOP_SECONDS = 20.0
PORT_ATTEMPTS = 5


class EmbeddedError(Exception):
    """A server could not be prepared, started or stopped; the text says why and what to do."""


class EmbeddedServer(Spawned, ABC):
    """One server on loopback with its data in `folder/name`. Not for use by two threads at once."""

    name: ClassVar[str]
    stop_signal: ClassVar[signal.Signals]
    #: Seconds that it may take to stop.
    grace: ClassVar[float] = STOP_SECONDS

    def __init__(self, folder: Path, *, port: int | None = None) -> None:
        self.folder = Path(folder).resolve()
        self.log = self.folder / "logs" / f"{self.name}.log"
        self._port = port
        self._fixed_port = port is not None
        self._rotated = False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    @abstractmethod
    def url(self) -> str:
        """Where and as whom clients connect, password included."""

    @abstractmethod
    def _prepare(self) -> None:
        """Make the data folder fit to start on. Called with the lock held."""

    @abstractmethod
    def _spawn(self, port: int, lock: int) -> subprocess.Popen[bytes]:
        """Start the process; it inherits the lock's descriptor."""

    @abstractmethod
    def _answers(self, port: int) -> bool:
        """Whether the process serves clients now."""

    @property
    def data(self) -> Path:
        return self.folder / self.name

    @property
    def password(self) -> str:
        return files.secret(self.folder / "secrets" / f"{self.name}_password")

    @property
    def port(self) -> int:
        """The port of the last start, which the next one takes again."""
        if self._port is None:
            raise EmbeddedError(f"{self.name} has not been started yet")
        return self._port

    @property
    def death_signal(self) -> signal.Signals:
        """What it gets when the process that started it is gone."""
        return self.stop_signal

    def is_ready(self) -> bool:
        return self.alive and self._answers(self.port)

    def start(self) -> None:
        """Start the server and return when it answers. Does nothing when it already runs."""
        if self.alive:
            return
        with self._plain_words():
            files.private_folder(self.folder)
            lock = self._lock()
            try:
                if not self._rotated:
                    files.rotate(self.log)
                    self._rotated = True
                self._prepare()
                self._start_on_some_port(lock)
            finally:
                os.close(lock)  # from here on only the server's processes hold it

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        """Stop the server cleanly; SIGKILL when it takes longer than `seconds`."""
        if self._process is None:
            return
        self.terminate()
        process.wait(self._process, seconds)
        process.kill_group(self._process)

    def terminate(self) -> None:
        """Ask the server to stop; returns at once."""
        if self.alive:
            self.process.send_signal(self.stop_signal)

    def kill(self) -> None:
        """End the server as a power cut would; returns when it is gone."""
        process.kill_group(self.process)

    def restart(self) -> None:
        """Stop (if it still runs) and start on the same port."""
        self.stop()
        self.start()

    def _start_on_some_port(self, lock: int) -> None:
        for attempt in range(1, PORT_ATTEMPTS + 1):
            port = self._port or ports.free_port()
            self._process = self._spawn(port, lock)
            if self._wait_until_it_answers(self._process, port):
                self._port = port
                self._fixed_port = True
                return
            code = self._process.returncode
            if self._fixed_port or attempt == PORT_ATTEMPTS or ports.is_free(port):
                raise self._failure(f"exited with code {code} instead of starting on port {port}")

    def _wait_until_it_answers(self, started: subprocess.Popen[bytes], port: int) -> bool:
        """Whether it does; False when it ended instead."""
        deadline = time.monotonic() + START_SECONDS
        try:
            while started.poll() is None and time.monotonic() < deadline:
                if self._answers(port):
                    return True
                time.sleep(0.01)
        except BaseException:
            process.kill_group(started)  # also on Ctrl-C
            raise
        if started.poll() is None:
            process.kill_group(started)
            raise self._failure(f"did not answer on port {port} within {START_SECONDS:.0f} s")
        return False

    def _lock(self) -> int:
        path = self.folder / f"{self.name}.lock"
        try:
            return files.lock(path, LOCK_SECONDS)
        except files.LockedError:
            raise EmbeddedError(
                f"another {self.name} is running on {self.data} (it holds {path}). "
                "Stop the program that started it, or use another data folder."
            ) from None

    def _failure(self, what: str) -> EmbeddedError:
        return EmbeddedError(f"{self.name} {what}. {files.last_words(self.log)}")

    @contextlib.contextmanager
    def _plain_words(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise EmbeddedError(f"{self.name} cannot use {self.folder}: {explain(error)}") from error


def explain(error: OSError) -> str:
    """The error in words, with what to do about the usual ones."""
    where = f" ({error.filename})" if error.filename else ""
    if error.errno == errno.ENOSPC:
        return f"the disk is full{where}. Free some space, or use another data folder."
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"permission denied{where}. Use a data folder that belongs to you."
    if error.errno == errno.EROFS:
        return f"the file system is read-only{where}. Use another data folder."
    return f"{error.strerror or error}{where}"


def server_environment() -> Mapping[str, str]:
    """What a server gets to see of this process's environment: nothing but where temporary files go."""
    return {name: os.environ[name] for name in ("PATH", "TMPDIR", "TZ") if name in os.environ}
