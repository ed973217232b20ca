"""``python -m shared.access``: create, list and revoke API keys."""

from __future__ import annotations

import argparse
import asyncio
import sys
from datetime import UTC, datetime, timedelta

from sqlalchemy.exc import SQLAlchemyError

from shared.access import queries, service
from shared.config import Settings, settings_or_exit
from shared.db import Database
from shared.models.access import SCOPES


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
    print(f"{'PREFIX':10} {'PROJECT':20} {'NAME':24} {'CREATED':17} {'STATE':9} SCOPES")
    for row in rows:
        state = "revoked" if row.revoked_at else "expired" if row.expired else "active"
        created = f"{row.created_at:%Y-%m-%d %H:%M}"
        print(f"{row.prefix:10} {row.project:20} {row.name:24} {created:17} {state:9} {' '.join(row.scopes)}")
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
        "--project", default="default", help="made where it does not exist (default: %(default)s)"
    )
    create.add_argument("--name", required=True, help="what the key is for")
    create.add_argument(
        "--scope", action="append", choices=SCOPES, help="may be given several times; default: all"
    )
    create.add_argument("--expires-in-days", type=_positive, metavar="N")
    create.set_defaults(run=_create)
    listing = commands.add_parser("list", help="show keys, without their secrets")
    listing.add_argument("--project", default=None)
    listing.set_defaults(run=_list)
    revoke = commands.add_parser("revoke", help="end a key")
    revoke.add_argument("prefix", help="its 8 characters after pln_")
    revoke.set_defaults(run=_revoke)
    ensure = commands.add_parser("ensure", help="register the key read from standard input")
    ensure.add_argument("--project", default="default")
    ensure.add_argument("--name", required=True)
    ensure.add_argument("--secret-stdin", action="store_true", required=True)
    ensure.set_defaults(run=_ensure)
    return parser


def _positive(value: str) -> int:
    number = int(value)
    if number <= 0:
        raise argparse.ArgumentTypeError("must be a whole number above 0")
    return number


if __name__ == "__main__":
    sys.exit(main())
