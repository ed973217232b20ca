"""Which database a command means: the one of the settings, else the one of a running scripts/up."""

import os
from pathlib import Path

from scripts import holder
from scripts.process import ROOT


class NoDatabaseError(Exception):
    """Neither settings nor a running scripts/up name a database."""


def environment(folder: Path) -> dict[str, str]:
    """This process's environment with DATABASE_URL and REDIS_URL in it.

    Settings in `.env` are left to the program that reads them. Raises `NoDatabaseError`.
    """
    if os.environ.get("DATABASE_URL") or _in_dotenv("DATABASE_URL"):
        return dict(os.environ)
    running = holder.running(folder)
    if running is None:
        raise NoDatabaseError(
            "there is no database to work on: set DATABASE_URL and REDIS_URL (in the environment or in .env), "
            "or start scripts/up first."
        )
    return {**os.environ, "DATABASE_URL": running.database_url, "REDIS_URL": running.redis_url}


def _in_dotenv(name: str) -> bool:
    try:
        lines = (ROOT / ".env").read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    return any(line.removeprefix("export ").split("=")[0].strip() == name for line in lines)
