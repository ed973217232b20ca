"""`.env.example` and `docker-compose.yml` name every setting, and nothing that is none."""

import re

from scripts.process import ROOT
from shared.config import Settings

SETTINGS = {name.upper() for name in Settings.model_fields}
EXAMPLE = (ROOT / ".env.example").read_text(encoding="utf-8")
COMPOSE = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
EXAMPLE_LINES = dict(re.findall(r"^#?([A-Z][A-Z_]+)=(.*)$", EXAMPLE, re.MULTILINE))
#: What docker-compose.yml decides itself: the addresses, ports and files of its own services.
FIXED_BY_COMPOSE = {
    "API_HOST",
    "API_PORT",
    "DATABASE_URL",
    "HEARTBEAT_FILE",
    "REDIS_URL",
    "SIMULATOR_URL",
    "WORKER_NAME",
}
#: What has no place in containers.
ONLY_IN_TESTS = {"TEST_CHECKPOINTS"}


def compose_variables() -> set[str]:
    """What docker-compose.yml takes from .env, by name or inside a value."""
    passed_on = re.findall(r"^ +([A-Z][A-Z_]+):$", COMPOSE, re.MULTILINE)
    return {*passed_on, *re.findall(r"\$\{([A-Z_]+)", COMPOSE)}


def test_every_setting_and_every_compose_variable_is_in_the_example_and_nothing_else() -> None:
    assert set(EXAMPLE_LINES) == SETTINGS | compose_variables()


def test_the_example_names_each_variable_once() -> None:
    names = re.findall(r"^#?([A-Z][A-Z_]+)=", EXAMPLE, re.MULTILINE)
    assert len(names) == len(set(names))


def test_the_example_shows_the_defaults() -> None:
    for name, shown in EXAMPLE_LINES.items():
        field = Settings.model_fields.get(name.lower())
        if field is None or field.is_required():
            continue
        assert shown == _written(field.default), name


def test_the_example_copied_as_it_is_changes_no_setting() -> None:
    active = re.findall(r"^([A-Z_]+)=(.*)$", EXAMPLE, re.MULTILINE)
    assert active == [("GEMINI_API_KEY", "")]


def test_the_example_shows_the_defaults_of_compose() -> None:
    defaults = dict(re.findall(r"\$\{([A-Z_]+):-([^}]*)\}", COMPOSE))
    assert defaults == {name: EXAMPLE_LINES[name] for name in defaults}


def test_compose_passes_on_every_setting_that_it_does_not_decide() -> None:
    passed_on = set(re.findall(r"^  ([A-Z][A-Z_]+):$", COMPOSE, re.MULTILINE))
    assert passed_on == SETTINGS - FIXED_BY_COMPOSE - ONLY_IN_TESTS


def _written(default: object) -> str:
    if default is None:
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default:g}" if isinstance(default, float) else str(default)
