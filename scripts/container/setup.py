"""The `setup` service of docker-compose.yml: runs before all others, every time, and changes nothing the second time.

It makes the passwords of PostgreSQL, Redis and Flower where there are none, hands each service a folder with what that
service needs, decides whether the simulator stands in for a provider, and refuses settings that cannot work.

    app/settings.env      DATABASE_URL, REDIS_URL, SIMULATOR_URL: /app/.env leads there, so every process reads it
    app/flower.py         Flower's basic_auth
    postgres/password     for POSTGRES_PASSWORD_FILE
    redis/redis.conf      requirepass
    redis/password        for redis-cli
"""

import os
import secrets
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from pydantic import ValidationError

from shared.config import Settings, problems

FOLDER = Path("/run/plantain")
FLOWER_USER = "plantain"
SIMULATOR_URL = "http://simulator:8900"
#: Read by programs that run as other users; the folders are mounted only where they are needed.
EVERYBODY = 0o444
OURSELVES = 0o400


def main() -> int:
    """Exit code 1 and the reasons on stderr when the settings do not work."""
    try:
        prepare(FOLDER, print)
    except ValidationError as error:
        lines = [f"  {line}" for line in problems(error)]
        print("\n".join(["these settings do not work; .env.example explains each:", *lines]), file=sys.stderr)
        return 1
    return 0


def prepare(folder: Path, say: Callable[[str], None]) -> None:
    """Write all files below `folder`. Raises `pydantic.ValidationError` before any setting is written."""
    postgres = keep_secret(folder / "postgres" / "password", EVERYBODY)
    redis = keep_secret(folder / "redis" / "password", EVERYBODY)
    flower = os.environ.get("FLOWER_PASSWORD") or keep_secret(folder / "app" / "flower_password", OURSELVES)
    written = {
        "DATABASE_URL": f"postgresql://plantain:{quote(postgres, safe='')}@postgres:5432/plantain",
        "REDIS_URL": f"redis://:{quote(redis, safe='')}@redis:6379/0",
    }
    keyless, may_simulate = providers_without_key(written)
    if keyless and may_simulate:
        written["SIMULATOR_URL"] = SIMULATOR_URL
    _settings(written)
    lines = "".join(f"{name}={value}\n" for name, value in written.items())
    write(folder / "app" / "settings.env", lines, OURSELVES)
    write(folder / "app" / "flower.py", f"basic_auth = [{f'{FLOWER_USER}:{flower}'!r}]\n", OURSELVES)
    write(folder / "redis" / "redis.conf", f"requirepass {redis}\n", EVERYBODY)
    for name in ("text", "images"):
        say(f"{name}: {_who_answers(name in keyless, may_simulate)}")


def providers_without_key(written: dict[str, str]) -> tuple[list[str], bool]:
    """What has no key, and whether the simulator may stand in: in production only where ALLOW_SIMULATOR=true says so."""
    # Only to ask: what production refuses is refused with the settings that are decided.
    asked = _settings({**written, "SIMULATOR_URL": SIMULATOR_URL, "ALLOW_SIMULATOR": "true"})
    text = bool(asked.gemini_api_key)
    images = bool(asked.nano_banana_api_key) or (text and asked.nano_banana_api == "google")
    keyless = [name for name, has_key in {"text": text, "images": images}.items() if not has_key]
    return keyless, not asked.in_production or _is_true(os.environ.get("ALLOW_SIMULATOR", ""))


def _who_answers(keyless: bool, may_simulate: bool) -> str:
    if not keyless:
        return "the provider answers, and is paid"
    return "no key is set: " + ("the simulator answers" if may_simulate else "every such job will fail")


def keep_secret(path: Path, mode: int) -> str:
    """The secret in the file, made if there is none. Letters and digits only, so no format needs quotes around it."""
    try:
        kept = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        kept = ""
    if not kept:
        kept = secrets.token_hex(24)
        write(path, kept + "\n", mode)
    return kept


def write(path: Path, text: str, mode: int) -> None:
    """Replace the file at once: a service that starts meanwhile reads the old or the new one, never half."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        os.fchmod(descriptor, mode)
    new.replace(path)


def _settings(written: dict[str, str]) -> Settings:
    """The settings as the services will see them: their environment wins over the file."""
    return Settings(_env_file=None, **{name.lower(): value for name, value in written.items()})  # type: ignore[arg-type]


def _is_true(text: str) -> bool:
    return text.strip().lower() in {"true", "t", "1", "yes", "y", "on"}


if __name__ == "__main__":
    sys.exit(main())
