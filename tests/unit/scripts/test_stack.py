"""What scripts/up makes of its options and settings, without starting anything."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from scripts import ports, stack
from scripts.cli import up
from scripts.supervisor import Supervisor
from scripts.terminal import Terminal
from shared.config import Settings


@pytest.fixture
def busy_port() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind((ports.HOST, 0))
        taken.listen()
        yield taken.getsockname()[1]


def make_stack(folder: Path, **options: object) -> stack.Stack:
    terminal = Terminal()
    chosen = stack.Options(folder, **options)  # type: ignore[arg-type]
    return stack.Stack(chosen, terminal, Supervisor(terminal), "postgresql://a:b@c/d", "redis://:e@f/0")


def settings(**fields: object) -> Settings:
    return Settings(_env_file=None, database_url="postgresql://a:b@c/d", redis_url="redis://:e@f/0", **fields)  # type: ignore[arg-type]


def test_port_that_was_asked_for_is_refused_when_busy(busy_port: int) -> None:
    with pytest.raises(stack.UsageError, match=f"port {busy_port} is in use"):
        stack.choose_port(busy_port)


def test_default_port_gives_way(busy_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack, "API_PORT", busy_port)
    assert stack.choose_port(None) > busy_port


@pytest.mark.parametrize(
    ("fields", "simulated"),
    [
        ({}, ("Gemini", "Nano Banana")),
        ({"gemini_api_key": "k"}, ()),
        ({"nano_banana_api_key": "k"}, ("Gemini",)),
        ({"gemini_api_key": "k", "nano_banana_api": "gateway"}, ("Nano Banana",)),
    ],
)
def test_simulator_stands_in_where_there_is_no_key(
    tmp_path: Path, fields: dict[str, object], simulated: tuple[str, ...]
) -> None:
    made = make_stack(tmp_path)
    programs = made._simulator(settings(**fields))
    assert made.simulated == simulated
    assert len(programs) == bool(simulated)
    assert ("SIMULATOR_URL" in made._environment()) == bool(simulated)


def test_simulator_only_hides_keys_and_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", "paid")
    made = make_stack(tmp_path, simulator_only=True)
    made._simulator(settings(gemini_api_key="paid"))
    environment = made._environment()
    assert "paid" not in environment.values()
    assert environment["GEMINI_BASE_URL"] == environment["NANO_BANANA_BASE_URL"] == made.simulator_url


def test_secrets_are_in_no_command(tmp_path: Path) -> None:
    made = make_stack(tmp_path)
    programs = [*made._simulator(settings()), made._api(), *made._workers(), made._beat(), *made._flower()]
    commands = [part for program in programs for part in program.command]
    assert not [part for part in commands if made.flower_password in part or ":b@" in part or ":e@" in part]


def test_key_of_the_data_folder_stays(tmp_path: Path) -> None:
    key = make_stack(tmp_path).api_key
    assert make_stack(tmp_path).api_key == key
    (tmp_path / "secrets" / "api_key").write_text("nonsense")
    with pytest.raises(stack.UsageError, match="holds no API key"):
        _ = make_stack(tmp_path).api_key


def test_external_names_what_is_missing() -> None:
    with pytest.raises(ValidationError) as error:
        Settings(_env_file=None, database_url="postgresql://a:b@c/d")
    explained = stack._explain(error.value, external=True)
    assert "--external needs DATABASE_URL and REDIS_URL" in explained
    assert "missing: REDIS_URL" in explained


def test_wrong_setting_is_named() -> None:
    with pytest.raises(ValidationError) as error:
        settings(worker_concurrency=0)
    assert "WORKER_CONCURRENCY" in stack._explain(error.value, external=False)


def test_summary_holds_a_command_to_copy(tmp_path: Path) -> None:
    made = make_stack(tmp_path)
    made.api_port = 8123
    made.simulated = ("Gemini",)
    text = up.summary(made)
    assert "curl -s http://127.0.0.1:8123/api/v1/jobs" in text
    assert made.api_key in text
    assert "The simulator stands in for Gemini (no key is set)" in text


@pytest.mark.parametrize(
    "arguments", [["--workers", "0"], ["--port", "70000"], ["--provider-latency-scale", "-1"]]
)
def test_senseless_options_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        up.main(arguments)
    assert "must be between" in capsys.readouterr().err
