"""``python -m shared.access`` in this process, on a database."""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime, timedelta

import pytest

from shared.access import __main__ as command
from shared.access import service
from shared.config import Settings
from shared.db import Database
from shared.errors import Unauthenticated


@pytest.fixture(autouse=True)
def _settings(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "settings_or_exit", lambda: settings)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["keys", *arguments])
    try:
        return command.main()
    except SystemExit as end:
        return int(end.code or 0)


def test_create_list_revoke(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], settings: Settings
) -> None:
    assert run(monkeypatch, "create", "--project", "shop", "--name", "app", "--expires-in-days", "30") == 0
    key = capsys.readouterr().out.strip()
    assert run(monkeypatch, "create", "--name", "for ever") == 0
    capsys.readouterr()
    assert run(monkeypatch, "list") == 0
    head, endless, shop = capsys.readouterr().out.splitlines()
    assert head.split() == ["PREFIX", "PROJECT", "NAME", "CREATED", "EXPIRES", "STATE", "SCOPES"]
    assert "never" in endless
    assert f"{datetime.now(UTC) + timedelta(days=30):%Y-%m-%d}" in shop
    assert key[4:12] in shop
    assert run(monkeypatch, "revoke", key) == 0
    assert run(monkeypatch, "revoke", key[:12]) == 0
    printed = capsys.readouterr()
    assert key[13:] not in printed.out + printed.err
    with pytest.raises(Unauthenticated, match="revoked"):
        asyncio.run(authenticate(settings, key))


async def authenticate(settings: Settings, key: str) -> None:
    database = Database(settings)
    try:
        await service.Authenticator(database).authenticate(key)
    finally:
        await database.close()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("create", "--name", "x", "--expires-in-days", "99999999999"), "from 1 to 36,500"),
        (("create", "--name", "x", "--expires-in-days", "0"), "from 1 to 36,500"),
        (("create", "--name", "x", "--expires-in-days", "soon"), "from 1 to 36,500"),
        (("create", "--name", "x", "--project", ""), "a project is named with"),
        (("create", "--name", "x", "--project", "Shop"), "a project is named with"),
        (("create", "--name", "x\nabcdefgh default"), "on one line"),
        (("create", "--name", "\x1b[2Jx"), "on one line"),
        (("create", "--name", " "), "on one line"),
        (("revoke", "pln_abcdefgh_s3cr3t"), "a key is named by"),
    ],
)
def test_what_makes_no_sense_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], says: str
) -> None:
    assert run(monkeypatch, *arguments) == 2
    printed = capsys.readouterr()
    assert says in printed.err
    assert "s3cr3t" not in printed.err + printed.out


def test_a_name_from_before_cannot_forge_a_row(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], settings: Settings
) -> None:
    async def make() -> None:
        database = Database(settings)
        await service.create(database, project="default", name="x\nabcdefgh\x1b[2J")
        await database.close()

    asyncio.run(make())
    assert run(monkeypatch, "list") == 0
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) == 2
    assert "\x1b" not in printed
