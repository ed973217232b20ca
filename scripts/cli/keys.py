"""scripts/keys: create, list and revoke API keys, in the database of the settings or of a running scripts/up."""

import subprocess
import sys

from scripts import target
from scripts.cli.options import DATA
from scripts.process import ROOT
from scripts.terminal import Terminal


def main(arguments: list[str]) -> int:
    try:
        environment = target.environment(DATA)
    except target.NoDatabaseError as error:
        if not {"-h", "--help"} & set(arguments):
            Terminal(sys.stderr).bad(str(error))
            return 1
        # Help needs no database, only settings that look like one.
        environment = {"DATABASE_URL": "postgresql://help", "REDIS_URL": "redis://help"}
    command = [sys.executable, "-m", "shared.access", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
