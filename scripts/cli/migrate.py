"""scripts/migrate: bring the database's tables up to date. Arguments go to Alembic, `upgrade head` without any."""

import subprocess
import sys

from scripts import target
from scripts.cli.options import DATA
from scripts.process import ROOT
from scripts.terminal import Terminal

HELP = """\
usage: scripts/migrate [ALEMBIC COMMAND …]

Bring the tables of the database up to date (alembic upgrade head), or run another Alembic command, such as
`current`, `history` or `upgrade head --sql`. The database is that of DATABASE_URL, else that of a running scripts/up.
"""


def main(arguments: list[str]) -> int:
    if arguments and arguments[0] in {"-h", "--help"}:
        print(HELP, end="")
        return 0
    try:
        environment = target.environment(DATA)
    except target.NoDatabaseError as error:
        Terminal(sys.stderr).bad(str(error))
        return 1
    command = [sys.executable, "-m", "alembic", *(arguments or ["upgrade", "head"])]
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
