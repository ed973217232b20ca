"""A disk so small that a test can fill it, for a database of its own. Needs Linux, and root who may mount."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess

from tests.e2e.faults.harness import Servers

_BYTES = 64 * 1024 * 1024


class NoDiskError(Exception):
    """It cannot be had here; the text says why."""


class SmallDisk:
    """In memory, as the tablespace ``small_disk`` of PostgreSQL. Close it when nobody uses its database any more."""

    tablespace = "small_disk"

    def __init__(self, servers: Servers) -> None:
        """Raises: NoDiskError."""
        self._servers = servers
        self._folder = servers.folder / "small-disk"
        self._filler = self._folder / "filler"
        self._place = self._folder / "tablespace"
        self._mount()
        self._place.mkdir(mode=0o700)
        owner = servers.postgres.server.data.stat()
        os.chown(self._place, owner.st_uid, owner.st_gid)
        self._folder.chmod(0o755)
        servers.execute(f"CREATE TABLESPACE {self.tablespace} LOCATION '{self._place}'")

    def fill(self) -> None:
        """To the last byte."""
        with contextlib.suppress(FileNotFoundError):
            self._filler.unlink()
        size = 1024 * 1024
        with self._filler.open("wb", buffering=0) as file:
            while size:
                try:
                    file.write(b"\0" * size)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    size //= 2

    def free(self) -> None:
        self._filler.unlink(missing_ok=True)

    def close(self) -> None:
        self.free()
        with contextlib.suppress(Exception):
            self._drop()
        # Not waited for: what the server holds open goes when it ends.
        subprocess.run(["umount", "--lazy", str(self._folder)], check=True, capture_output=True)

    def _drop(self) -> None:
        query = "SELECT datname FROM pg_database d JOIN pg_tablespace t ON t.oid = d.dattablespace WHERE spcname = %s"
        names = [name for (name,) in self._servers.rows(query, self.tablespace)]
        self._servers.execute(*(f"DROP DATABASE {name} WITH (FORCE)" for name in names))
        self._servers.execute(f"DROP TABLESPACE {self.tablespace}")

    def _mount(self) -> None:
        self._folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={_BYTES}", "plantain-faults", str(self._folder)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except FileNotFoundError:
            raise NoDiskError("there is no mount") from None
        except subprocess.CalledProcessError as error:
            raise NoDiskError(f"a small file system cannot be mounted here: {error.stderr.strip()}") from None
