from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from shared.config import Environment, Settings, problems
from tests.conftest import ROOT, settings_of

BASE: dict[str, Any] = {
    "database_url": "postgresql://plantain:s3cr3t-enough@db/plantain",
    "redis_url": "redis://:s3cr3t-enough@redis:6379/0",
}
PRODUCTION = {**BASE, "environment": Environment.PRODUCTION, "gemini_api_key": "AIza-something"}


def test_production_starts_with_secrets_of_its_own() -> None:
    assert settings_of(**PRODUCTION).in_production


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"database_url": "postgresql://plantain:plantain@db/x"}, "DATABASE_URL has no password"),
        ({"redis_url": "redis://redis:6379/0"}, "REDIS_URL has no password"),
        ({"simulator_url": "http://simulator:9000"}, "SIMULATOR_URL is set in production"),
        ({"gemini_api_key": None}, "GEMINI_API_KEY is missing"),
        ({"gemini_api_key": " \t"}, "GEMINI_API_KEY is missing"),
        ({"nano_banana_api": "gateway"}, "NANO_BANANA_API_KEY is missing"),
        ({"nano_banana_api": "gateway", "nano_banana_api_key": " "}, "NANO_BANANA_API_KEY is missing"),
    ],
)
def test_production_refuses_what_is_for_development(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        settings_of(**{**PRODUCTION, **change})


@pytest.mark.parametrize(
    "change",
    [
        {"database_url": "mysql://x"},
        {"redis_url": "http://x"},
        {"public_url": "ftp://x"},
        {"public_url": "//x"},
        {"public_url": "https://x\r\nset-cookie: a=b"},
        {"public_url": "https://x\n/"},
        {"public_url": "https://пример.example"},
        {"public_url": "https://x/a b"},
        {"forwarded_allow_ips": "127.0.0.1,nginx"},
        {"api_port": 70000},
        {"lease_seconds": 5, "lease_renew_seconds": 5},
    ],
)
def test_what_makes_no_sense_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        settings_of(**{**BASE, **change})


def test_passwords_are_never_shown() -> None:
    settings = settings_of(**BASE, gemini_api_key="AIza-something")
    for text in (repr(settings), str(settings), str(settings.model_dump())):
        assert "s3cr3t" not in text
        assert "AIza" not in text


def test_an_error_shows_no_value() -> None:
    with pytest.raises(ValidationError) as error:
        settings_of(**{**BASE, "nano_banana_api_key": "canaryfeather", "lease_seconds": 1})
    shown = str(error.value) + "".join(problems(error.value))
    assert "LEASE_SECONDS must be" in shown
    assert "canaryfeather" not in shown
    assert "s3cr3t" not in shown


@pytest.mark.parametrize("name", ["simulator_url", "gemini_base_url", "database_url", "redis_url"])
def test_an_address_that_cannot_be_read_is_not_repeated(name: str) -> None:
    with pytest.raises(ValidationError) as error:
        settings_of(**{**BASE, name: "http://user:canaryfeather\u2100@host"})
    assert "canaryfeather" not in str(error.value) + "".join(problems(error.value))


def test_blanks_around_addresses_are_dropped() -> None:
    """Such as the line's end in a file that `echo` wrote."""
    settings = settings_of(**BASE, public_url="https://x.example/\n", forwarded_allow_ips=" *\n")
    assert settings.public_url == "https://x.example"
    assert settings.forwarded_allow_ips == "*"


@pytest.mark.parametrize("proxies", ["nginx", "127.0.0.1, nginx", "[::1]", "*, 10.0.0.0/8", "10.0.0.1/8"])
def test_what_is_no_address_of_a_proxy_is_told(proxies: str) -> None:
    with pytest.raises(ValidationError, match="names are not looked up: give addresses and networks"):
        settings_of(**BASE, forwarded_allow_ips=proxies)


def test_blanks_around_a_key_are_dropped() -> None:
    key = settings_of(**BASE, gemini_api_key=" AIza-something\n").gemini_api_key
    assert key is not None
    assert key.get_secret_value() == "AIza-something"


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", "")
    monkeypatch.setenv("DATABASE_URL", BASE["database_url"])
    monkeypatch.setenv("REDIS_URL", BASE["redis_url"])
    assert Settings(_env_file=None).gemini_api_key is None


def test_the_example_lists_every_setting() -> None:
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    assert not [name for name in Settings.model_fields if f"{name.upper()}=" not in example]


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("redis_url", "redis://:c4n4ry@h:c4n4ry/0"),
        ("redis_url", "redis://:c4n4ry@h:99999/0"),
        ("redis_url", "redis://:c4n4ry/c4n4ry@h:6379/0"),
        ("redis_url", "redis://:c4n4ry#c4n4ry@h:6379/0"),
        ("redis_url", "redis://:c4n4ry?c4n4ry@h:6379/0"),
        ("redis_url", "redis://h:6379/c4n4ry"),
        ("redis_url", "redis://[c4n4ry/0"),
        ("redis_url", "redis://"),
        ("database_url", "postgresql://u:c4n4ry@h:c4n4ry/x"),
        ("database_url", "postgresql://u:12/c4n4ry@h:5432/x"),
        ("database_url", "postgresql://u:c4n4ry#c4n4ry@h:5432/x"),
        ("database_url", "postgresql://u:c4n4ry@/x"),
        ("database_url", "postgresql://u:c4n4ry@[h/x"),
    ],
)
def test_an_address_that_cannot_be_read_says_what_to_encode_and_shows_nothing(name: str, url: str) -> None:
    with pytest.raises(ValidationError) as caught:
        settings_of(**{**BASE, name: url})
    (line,) = problems(caught.value)
    assert line.startswith(f"{name.upper()}: ")
    assert "percent-encode the password" in line
    assert "c4n4ry" not in line


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("redis_url", "redis://h"),
        ("redis_url", "rediss://user:p%2F%23@h:6380/15?ssl_cert_reqs=none"),
        ("redis_url", "redis://[::1]:6379/0"),
        ("database_url", "postgres://h/x"),
        ("database_url", "postgresql+psycopg://u:p%2F@[::1]:5432/x?sslmode=require"),
        ("database_url", "postgresql://u@/x?host=/var/run/postgresql"),
    ],
)
def test_addresses_in_their_other_forms_are_taken(name: str, url: str) -> None:
    settings_of(**{**BASE, name: url})
