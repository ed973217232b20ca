"""``python -m shared.access``: create, list and revoke API keys."""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
from datetime import UTC, datetime, timedelta

from sqlalchemy.exc import SQLAlchemyError

from shared.access import keys, queries, service
from shared.config import Settings, settings_or_exit
from shared.db import Database
from shared.models.access import SCOPES

_PROJECT = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_LONGEST_NAME = 100
_MAX_DAYS = 36_500


def main() -> int:
    arguments = _parser().parse_args()
    settings = settings_or_exit()
    return asyncio.run(_run(arguments, settings))


async def _run(arguments: argparse.Namespace, settings: Settings) -> int:
    database = Database(settings, application="plantain keys")
    try:
        code: int = await arguments.run(database, arguments)
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", error)).splitlines()[0]
        print(
            f"The database could not be asked: {reason}\nIs it up and migrated (scripts/migrate)?",
            file=sys.stderr,
        )
        return 1
    except ValueError as error:
        print(f"Not done: {error}.", file=sys.stderr)
        return 1
    finally:
        await database.close()
    return code


async def _create(database: Database, arguments: argparse.Namespace) -> int:
    days = arguments.expires_in_days
    expires_at = datetime.now(UTC) + timedelta(days=days) if days else None
    key = await service.create(
        database,
        project=arguments.project,
        name=arguments.name,
        scopes=arguments.scope or SCOPES,
        expires_at=expires_at,
    )
    print(key)
    print("This is the only time that the key can be seen: keep it now.", file=sys.stderr)
    return 0


async def _ensure(database: Database, arguments: argparse.Namespace) -> int:
    key = sys.stdin.readline().strip()
    await service.create(database, project=arguments.project, name=arguments.name, key=key)
    return 0


async def _list(database: Database, arguments: argparse.Namespace) -> int:
    async with database.transaction() as db:
        rows = await queries.list_keys(db, arguments.project)
    if not rows:
        print("No keys yet. Make one: scripts/keys create --project default --name my-app", file=sys.stderr)
        return 0
    rows_of_text = [("PREFIX", "PROJECT", "NAME", "CREATED", "EXPIRES", "STATE", "SCOPES")]
    for row in rows:
        state = "revoked" if row.revoked_at else "expired" if row.expired else "active"
        times = [
            f"{moment:%Y-%m-%d %H:%M}" if moment else "never" for moment in (row.created_at, row.expires_at)
        ]
        rows_of_text.append(
            (row.prefix, row.project, _printable(row.name), *times, state, " ".join(row.scopes))
        )
    widths = [max(map(len, column)) for column in zip(*rows_of_text, strict=True)]
    for cells in rows_of_text:
        print("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())
    return 0


async def _revoke(database: Database, arguments: argparse.Namespace) -> int:
    async with database.transaction() as db:
        found = await queries.revoke_key(db, arguments.prefix)
    if not found:
        print(f"No key has the prefix {arguments.prefix}; scripts/keys list shows them.", file=sys.stderr)
        return 1
    print(f"Revoked {arguments.prefix}; it stops working within {service.CACHE_SECONDS:.0f} seconds.")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/keys", description="API keys of projects.")
    commands = parser.add_subparsers(required=True, metavar="create | list | revoke")
    create = commands.add_parser("create", help="make a key and print it, once")
    create.add_argument(
        "--project",
        type=_project,
        default="default",
        help="made where it does not exist (default: %(default)s)",
    )
    create.add_argument("--name", type=_name, required=True, help="what the key is for")
    create.add_argument(
        "--scope", action="append", choices=SCOPES, help="may be given several times; default: all"
    )
    create.add_argument("--expires-in-days", type=_days, metavar="N", help="default: never")
    create.set_defaults(run=_create)
    listing = commands.add_parser("list", help="show keys, without their secrets")
    listing.add_argument("--project", type=_project, default=None)
    listing.set_defaults(run=_list)
    revoke = commands.add_parser("revoke", help="end a key")
    revoke.add_argument("prefix", type=_prefix, help="its 8 characters after pln_, or the whole key")
    revoke.set_defaults(run=_revoke)
    ensure = commands.add_parser("ensure", help="register the key read from standard input")
    ensure.add_argument("--project", type=_project, default="default")
    ensure.add_argument("--name", type=_name, required=True)
    ensure.add_argument("--secret-stdin", action="store_true", required=True)
    ensure.set_defaults(run=_ensure)
    return parser


def _project(value: str) -> str:
    if not _PROJECT.fullmatch(value):
        raise argparse.ArgumentTypeError(
            "a project is named with 1 to 63 of a-z, 0-9 and -, and begins with no -"
        )
    return value


def _name(value: str) -> str:
    if not value.strip() or len(value) > _LONGEST_NAME or not value.isprintable():
        raise argparse.ArgumentTypeError(f"a name is 1 to {_LONGEST_NAME} characters on one line")
    return value.strip()


def _days(value: str) -> int:
    # At most so many digits: Python refuses to read numbers without end.
    number = int(value) if value.isascii() and value.isdigit() and len(value) <= 9 else 0
    if not 0 < number <= _MAX_DAYS:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 to {_MAX_DAYS:,}")
    return number


def _prefix(value: str) -> str:
    """The prefix in what names a key. The message never repeats it: it may be a whole key."""
    found = keys.prefix_in(value.strip())
    if found is None:
        raise argparse.ArgumentTypeError(
            "a key is named by its 8 characters after pln_, as scripts/keys list shows them, or by all of it"
        )
    return found


def _printable(text: str) -> str:
    """Names made before they were checked may hold anything."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


if __name__ == "__main__":
    sys.exit(main())
