"""The setup service of docker-compose.yml: passwords, and who answers."""

import os
import stat
import subprocess
from pathlib import Path

import pytest
from pydantic import ValidationError

from scripts.container import setup
from scripts.process import ROOT
from shared.config import Settings

HEALTHCHECK = ROOT / "scripts" / "container" / "healthcheck"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (*Settings.model_fields, "flower_password"):
        monkeypatch.delenv(name.upper(), raising=False)
    for name in ("app", "postgres", "redis"):
        (tmp_path / name).mkdir()
    return tmp_path


def prepare(folder: Path) -> tuple[Settings, list[str]]:
    said: list[str] = []
    setup.prepare(folder, said.append)
    return Settings(_env_file=folder / "app" / "settings.env"), said


def test_passwords_are_random_and_stay(folder: Path) -> None:
    first, _ = prepare(folder)
    second, _ = prepare(folder)
    passwords = {name: (folder / name / "password").read_text().strip() for name in ("postgres", "redis")}
    assert len(set(passwords.values())) == 2
    assert all(len(password) == 48 for password in passwords.values())
    assert f":{passwords['postgres']}@postgres" in first.database_url.get_secret_value()
    assert f":{passwords['redis']}@redis" in first.redis_url.get_secret_value()
    assert (folder / "redis" / "redis.conf").read_text() == f"requirepass {passwords['redis']}\n"
    assert first == second


def test_only_the_app_reads_the_app_files(folder: Path) -> None:
    prepare(folder)
    modes = {
        str(path.relative_to(folder)): stat.S_IMODE(path.stat().st_mode)
        for path in folder.rglob("*")
        if path.is_file()
    }
    assert {name: mode for name, mode in modes.items() if name.startswith("app/")} == {
        "app/settings.env": 0o400,
        "app/flower.py": 0o400,
        "app/flower_password": 0o400,
    }


def test_without_any_key_the_simulator_answers(folder: Path) -> None:
    settings, said = prepare(folder)
    assert settings.simulator_url == setup.SIMULATOR_URL
    assert said == [
        "text: no key is set: the simulator answers",
        "images: no key is set: the simulator answers",
    ]


@pytest.mark.parametrize("environment", ["development", "production"])
def test_with_a_key_nobody_hears_of_the_simulator(
    folder: Path, monkeypatch: pytest.MonkeyPatch, environment: str
) -> None:
    prepare(folder)
    monkeypatch.setenv("GEMINI_API_KEY", "a-key")
    monkeypatch.setenv("ENVIRONMENT", environment)
    settings, said = prepare(folder)
    assert settings.simulator_url is None
    assert all("provider answers" in line for line in said)


def test_the_simulator_stands_in_for_a_gateway_without_key(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", "a-key")
    monkeypatch.setenv("NANO_BANANA_API", "gateway")
    settings, said = prepare(folder)
    assert settings.simulator_url == setup.SIMULATOR_URL
    assert said == [
        "text: the provider answers, and is paid",
        "images: no key is set: the simulator answers",
    ]


def test_production_without_a_key_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENVIRONMENT", "production")
    with pytest.raises(ValidationError, match="GEMINI_API_KEY is missing"):
        prepare(folder)
    assert not (folder / "app" / "settings.env").exists()


def test_production_takes_the_simulator_only_when_allowed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENVIRONMENT", "production")
    monkeypatch.setenv("ALLOW_SIMULATOR", "true")
    settings, _ = prepare(folder)
    assert settings.simulator_url == setup.SIMULATOR_URL


def test_a_flower_password_of_ones_own_may_hold_anything(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOWER_PASSWORD", "quote ' and \" and \\ and #")
    prepare(folder)
    found: dict[str, list[str]] = {}
    exec((folder / "app" / "flower.py").read_text(), found)  # as Flower reads it
    assert found["basic_auth"] == ["plantain:quote ' and \" and \\ and #"]


def test_a_fresh_heartbeat_is_healthy_and_an_old_one_is_not(tmp_path: Path) -> None:
    heartbeat = tmp_path / "heartbeat"
    assert check_health(HEARTBEAT_FILE=str(heartbeat)) == 1
    heartbeat.touch()
    assert check_health(HEARTBEAT_FILE=str(heartbeat)) == 0
    os.utime(heartbeat, (1_000_000_000, 1_000_000_000))
    assert check_health(HEARTBEAT_FILE=str(heartbeat)) == 1


def check_health(**environment: str) -> int:
    done = subprocess.run(
        ["bash", str(HEALTHCHECK)], env={**os.environ, **environment}, capture_output=True, check=False
    )
    return done.returncode
