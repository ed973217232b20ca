"""Secrets, locks and logs of a data folder, and who holds it."""

import os
import stat
from pathlib import Path

import pytest

from scripts import files, holder, ports


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_secret_is_made_once_and_private(tmp_path: Path) -> None:
    path = tmp_path / "secrets" / "one"
    first = files.secret(path)
    assert files.secret(path) == first
    assert len(first) >= 32
    assert mode(path) == 0o600
    assert mode(path.parent) == 0o700


def test_lock_is_exclusive_until_closed(tmp_path: Path) -> None:
    descriptor = files.lock(tmp_path / "lock")
    with pytest.raises(files.LockedError):
        files.lock(tmp_path / "lock", wait=0.05)
    os.close(descriptor)
    os.close(files.lock(tmp_path / "lock"))


def test_rotation_keeps_the_previous_log(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    files.rotate(log)
    log.write_text("old\n")
    files.rotate(log)
    assert not log.exists()
    assert (tmp_path / "x.log.1").read_text() == "old\n"


def test_tail_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    assert files.tail(log) == []
    log.write_text("".join(f"{number}\n" for number in range(100)))
    assert files.tail(log, 3) == ["97", "98", "99"]


def test_second_holder_is_told_who_was_first(tmp_path: Path) -> None:
    with holder.hold(tmp_path) as lock:
        assert holder.running(tmp_path) is None
        holder.describe(lock, holder.Holder(os.getpid(), "http://127.0.0.1:8000", "postgresql://x"))
        found = holder.running(tmp_path)
        assert found is not None
        assert found.database_url == "postgresql://x"
        with pytest.raises(holder.HeldError) as refusal, holder.hold(tmp_path):
            pass
    assert f"pid {os.getpid()}, http://127.0.0.1:8000" in str(refusal.value)
    assert "--data-dir" in str(refusal.value)
    assert mode(tmp_path / holder.NAME) == 0o600


def test_stale_lock_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / holder.NAME).write_text(
        '{"pid": 1, "api_url": "http://gone", "database_url": "postgresql://gone"}'
    )
    assert holder.running(tmp_path) is None
    with holder.hold(tmp_path):
        pass


def test_claimed_port_is_given_once() -> None:
    first = ports.claim_next(21_000)
    assert ports.claim_next(first) > first
    assert not ports.claim(first)


def test_free_port_is_outside_the_range_of_outgoing_connections() -> None:
    port = ports.free_port()
    assert port < 32_768
    assert ports.is_free(port)
