"""The embedded servers: real programs, started, stopped, killed and refused."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from redis import Redis

from scripts.embedded import (
    EmbeddedError,
    EmbeddedPostgres,
    EmbeddedServer,
    EmbeddedValkey,
    binaries,
    postgres,
    server,
)
from scripts.process import ROOT

from .processes import gone, wait_until


@pytest.fixture
def folder() -> Iterator[Path]:
    """Directly below the system's folder: `nobody` could not reach pytest's own."""
    with tempfile.TemporaryDirectory(prefix="plantain-test-", ignore_cleanup_errors=True) as path:
        yield Path(path)


def write_row(url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE kept (id int)")
        connection.execute("INSERT INTO kept VALUES (1)")


def rows(url: str) -> int:
    with psycopg.connect(url) as connection:
        found = connection.execute("SELECT count(*) FROM kept").fetchone()
    assert found
    return int(found[0])


@pytest.mark.parametrize("way", ["stop", "kill"])
def test_postgres_keeps_its_rows_and_its_port(folder: Path, way: str) -> None:
    with EmbeddedPostgres(folder) as first:
        write_row(first.url)
        url = first.url
        getattr(first, way)()
        assert not first.alive
        first.start()
        assert first.url == url
        assert rows(url) == 1
    with EmbeddedPostgres(folder) as second:
        assert rows(second.url) == 1


@pytest.mark.parametrize("way", ["stop", "kill"])
def test_valkey_keeps_its_keys_and_its_port(folder: Path, way: str) -> None:
    with EmbeddedValkey(folder) as valkey:
        with Redis.from_url(valkey.url) as client:
            client.set("kept", "1")
        url = valkey.url
        getattr(valkey, way)()
        valkey.start()
        assert valkey.url == url
        with Redis.from_url(url) as client:
            assert client.get("kept") == b"1"


def test_postgres_is_set_up_as_the_design_says(folder: Path) -> None:
    with (
        EmbeddedPostgres(folder, settings={"work_mem": "8MB"}) as running,
        psycopg.connect(running.url) as connection,
    ):
        show: dict[str, str] = dict(connection.execute("SELECT name, setting FROM pg_settings").fetchall())
        database = connection.execute(
            "SELECT datname, datctype, pg_encoding_to_char(encoding) FROM pg_database WHERE datname = current_database()"
        ).fetchone()
    assert database == ("plantain", "C.UTF-8", "UTF8")
    assert show["fsync"] == "on"
    assert show["listen_addresses"] == "127.0.0.1"
    assert show["unix_socket_directories"] == ""
    assert show["password_encryption"] == "scram-sha-256"
    assert (show["max_connections"], show["work_mem"]) == ("200", "8192")


def test_neither_lets_anybody_in_without_the_password(folder: Path) -> None:
    with EmbeddedPostgres(folder) as pg, EmbeddedValkey(folder) as valkey:
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(pg.url.replace(pg.password, "wrong"))
        with (
            Redis.from_url(valkey.url.replace(valkey.password, "")) as client,
            pytest.raises(Exception, match=r"(?i)auth"),
        ):
            client.ping()


def test_no_password_is_in_a_command_line_or_readable_by_others(folder: Path) -> None:
    with EmbeddedPostgres(folder) as pg, EmbeddedValkey(folder) as valkey:
        listed = subprocess.run(["ps", "-ewwo", "args"], capture_output=True, text=True, check=True).stdout
        assert str(pg.data) in listed
        assert pg.password not in listed
        assert valkey.password not in listed
        assert folder.stat().st_mode & 0o777 == 0o700
        assert all(path.stat().st_mode & 0o077 == 0 for path in (folder / "secrets").iterdir())
        holds_it = [
            p for p in valkey.data.rglob("*") if p.is_file() and valkey.password.encode() in p.read_bytes()
        ]
        assert holds_it == []


@pytest.mark.parametrize("kind", [EmbeddedPostgres, EmbeddedValkey])
def test_second_server_on_the_same_folder_is_refused(
    folder: Path, kind: type[EmbeddedServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "LOCK_SECONDS", 0.1)
    with kind(folder), pytest.raises(EmbeddedError, match=r"another .* is running"):
        kind(folder).start()


def test_remains_of_a_crash_are_removed(folder: Path) -> None:
    with EmbeddedPostgres(folder) as first:
        pid = first.pid
    # A pid file that names a living process, as after a reboot: PostgreSQL alone would refuse.
    (folder / "postgres" / "postmaster.pid").write_text(
        f"{os.getppid()}\n{folder / 'postgres'}\n0\n1\n\n127.0.0.1\n0 0\n"
    )
    with EmbeddedPostgres(folder) as second:
        assert second.pid != pid


def test_half_made_cluster_is_never_used(folder: Path) -> None:
    beside = folder / "postgres.new" / "cluster"
    beside.mkdir(parents=True)
    (beside / "PG_VERSION").write_text("18\n")
    with EmbeddedPostgres(folder) as pg:
        write_row(pg.url)
    assert not (folder / "postgres.new").exists()


def test_failure_shows_what_the_server_said(folder: Path) -> None:
    with pytest.raises(EmbeddedError, match=re.compile("exited with code 1.*no_such_setting", re.DOTALL)):
        EmbeddedPostgres(folder, settings={"no_such_setting": "1"}).start()


def test_folder_that_cannot_be_made_is_explained(folder: Path) -> None:
    (folder / "file").write_text("")
    with pytest.raises(EmbeddedError, match=r"valkey cannot use .*file"):
        EmbeddedValkey(folder / "file" / "data").start()


def test_missing_programs_are_explained(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binaries, "postgres_bin", lambda: None)
    monkeypatch.setattr(binaries, "valkey_server", lambda: None)
    with pytest.raises(EmbeddedError, match="PG_BIN"):
        EmbeddedPostgres(folder).start()
    with pytest.raises(EmbeddedError, match="VALKEY_SERVER"):
        EmbeddedValkey(folder).start()


def test_servers_die_with_the_process_that_started_them(folder: Path) -> None:
    starter = (
        "import sys, time; from pathlib import Path; from scripts.embedded import *\n"
        "servers = [EmbeddedPostgres(Path(sys.argv[1])), EmbeddedValkey(Path(sys.argv[1]))]\n"
        "for server in servers: server.start()\n"
        "print(*(server.pid for server in servers), flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", starter, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    with process, process.stdout:
        pids = [int(pid) for pid in process.stdout.readline().split()]
        process.kill()
    assert len(pids) == 2
    wait_until(lambda: all(gone(pid) for pid in pids), 10)
    with EmbeddedPostgres(folder):
        assert "database system was shut down" in (folder / "logs" / "postgres.log").read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to become somebody else")
def test_root_without_namespaces_becomes_nobody(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "run_as", lambda: "nobody")
    with EmbeddedPostgres(folder) as pg:
        write_row(pg.url)
        assert Path(f"/proc/{pg.pid}").stat().st_uid == 65534
    monkeypatch.undo()
    with EmbeddedPostgres(folder) as pg:
        assert rows(pg.url) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to become somebody else")
def test_folder_out_of_reach_for_nobody_is_explained(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "run_as", lambda: "nobody")
    folder.chmod(0o700)
    with pytest.raises(EmbeddedError, match="who cannot reach some of its files"):
        EmbeddedPostgres(folder / "data").start()


def test_folder_may_have_any_name(folder: Path) -> None:
    strange = folder / 'it\'s a "folder" ünd so'
    with EmbeddedPostgres(strange) as pg, EmbeddedValkey(strange):
        write_row(pg.url)
    shutil.rmtree(strange)
