"""scripts/check: linters, types, import contracts, requirements."""

import argparse

from scripts import steps
from scripts.terminal import Terminal


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/check",
        description="Run ruff, mypy, the import contracts, and see whether requirements/*.txt fit pyproject.toml.",
    )
    parser.add_argument("--fix", action="store_true", help="let ruff mend and format first")
    parsed = parser.parse_args(arguments)
    return 0 if steps.run_checks(Terminal(), fix=parsed.fix) else 1
