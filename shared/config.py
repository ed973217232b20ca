"""Settings, read from the environment and from ``.env``. ``.env.example`` lists every one."""

from __future__ import annotations

import re
import sys
from enum import StrEnum
from functools import cache
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Literal, NoReturn
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

GOOGLE_BASE_URL = "https://generativelanguage.googleapis.com"
GATEWAY_BASE_URL = "https://api.nanobanana.pro"
#: What a driver sends as its key when it speaks to the simulator.
SIMULATOR_KEY = "simulator"
_LIMIT = re.compile(
    r"(?P<model>[\w.-]+)\s*=\s*(?:rpm:(?P<rpm>[1-9]\d{0,6}))?\s*,?\s*(?:in_flight:(?P<in_flight>[1-9]\d{0,5}))?"
)
#: Where receivers and pictures of a developer lie: this machine.
_LOOPBACK: tuple[IPv4Network | IPv6Network, ...] = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))
#: Passwords that stand in examples; production refuses them.
_DEVELOPMENT_PASSWORDS = {"", "plantain", "postgres", "password", "changeme", "change-me", "secret"}

_ENCODE = "percent-encode the password where it holds / # ? @ : or %"


class Environment(StrEnum):
    DEVELOPMENT = "development"
    TEST = "test"
    PRODUCTION = "production"


class Settings(BaseSettings):
    """One object for every process; times are seconds, sizes are bytes.

    Raises:
        pydantic.ValidationError: a value is malformed, or a development secret stands in production.
    """

    # An empty variable counts as unset: compose passes unset ones on as "". An error never shows what was given.
    model_config = SettingsConfigDict(
        env_file=".env", extra="ignore", env_ignore_empty=True, frozen=True, hide_input_in_errors=True
    )

    environment: Environment = Environment.DEVELOPMENT
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["text", "json"] = "text"

    # PostgreSQL and Redis (or Valkey). Values may hold passwords: they are never shown.
    database_url: SecretStr
    redis_url: SecretStr
    database_pool_size: Annotated[int, Field(ge=4, le=200)] = 10
    database_connect_timeout: Annotated[float, Field(gt=0)] = 3
    #: Upper bound of every statement; a hung disk must not hang a request for ever.
    database_statement_timeout: Annotated[float, Field(gt=0)] = 10

    # The API.
    api_host: str = "127.0.0.1"
    api_port: Annotated[int, Field(ge=0, le=65535)] = 8000
    api_processes: Annotated[int, Field(ge=1, le=64)] = 1
    #: Public address, used for the URLs in answers where a proxy stands in front.
    public_url: str | None = None
    #: Proxies that are believed when they name the client they ask for: addresses and networks, by commas, or ``*``.
    forwarded_allow_ips: str = "127.0.0.1,::1"
    max_body_bytes: Annotated[int, Field(ge=1024)] = 30_000_000
    #: Requests that may wait for a job at once in one process: Prefer: wait, and event streams.
    api_max_waiting: Annotated[int, Field(ge=1, le=100_000)] = 5000
    #: A stream that has nothing to say says so this often; before a proxy takes it for dead.
    stream_heartbeat_seconds: Annotated[float, Field(ge=0.1, le=300)] = 15.0
    #: Who takes nothing of what is sent for so long is cut off.
    send_timeout: Annotated[float, Field(ge=0.1, le=3600)] = 60.0
    max_prompt_chars: Annotated[int, Field(ge=1)] = 1_000_000
    #: How long a submit waits for the broker before it answers without it.
    publish_timeout: Annotated[float, Field(gt=0)] = 1.0

    # Workers.
    worker_name: str | None = None
    worker_concurrency: Annotated[int, Field(ge=1, le=2000)] = 100
    #: Comma-separated queue names; empty means all.
    worker_queues: str = ""
    #: A file whose time of change says that the process is well.
    heartbeat_file: Path | None = None
    lease_seconds: Annotated[float, Field(ge=1)] = 30
    lease_renew_seconds: Annotated[float, Field(gt=0)] = 5

    # Jobs.
    job_timeout: Annotated[float, Field(ge=1, le=3600)] = 300
    job_max_attempts: Annotated[int, Field(ge=1, le=20)] = 5
    #: How long a provider's stream that has begun may be silent, seconds; a job's own timeout holds all the same.
    stream_idle_timeout: Annotated[float, Field(gt=0)] = 60
    retry_base_seconds: Annotated[float, Field(gt=0)] = 2
    retry_cap_seconds: Annotated[float, Field(gt=0)] = 300
    #: A queued job whose message was not taken for this long is published again.
    republish_after_seconds: Annotated[float, Field(gt=0)] = 15
    #: How long a job is kept once it is final, unless it says so itself (keep_for); None means for ever.
    retention_days: Annotated[float | None, Field(gt=0, le=3650)] = None

    # Uploads.
    max_upload_bytes: Annotated[int, Field(ge=1024, le=1_000_000_000)] = 20_000_000
    #: How long an upload is kept after it was last given, unless a job refers to it.
    upload_keep_hours: Annotated[float, Field(gt=0, le=8760)] = 24

    # What holds back a model's calls, across all workers.
    #: Limits by model: "nano-banana-pro=rpm:60,in_flight:8; gemini-flash=rpm:600".
    model_limits: str = ""
    #: This many calls of a model in a row without an answer pause it.
    provider_failures_to_pause: Annotated[int, Field(ge=1)] = 5
    #: The first pause where the provider names no time; each further one in a row is twice as long.
    provider_pause_seconds: Annotated[float, Field(gt=0)] = 10
    provider_pause_cap_seconds: Annotated[float, Field(gt=0)] = 300

    # Gemini (text).
    gemini_sdk: Literal["google-genai", "google-generativeai"] = "google-genai"
    gemini_api_key: SecretStr | None = None
    gemini_base_url: str = GOOGLE_BASE_URL

    # Nano Banana (images): Google's REST form, or a gateway's.
    nano_banana_api: Literal["google", "gateway"] = "google"
    nano_banana_api_key: SecretStr | None = None
    nano_banana_base_url: str | None = None
    nano_banana_gateway_path: str = "/visualize"
    nano_banana_gateway_auth_header: str = "Authorization"
    nano_banana_gateway_auth_scheme: str = "Bearer"
    #: Comma-separated hosts that a gateway's result URLs may name, besides the gateway itself.
    nano_banana_gateway_result_hosts: str = ""

    # Calls to URLs that clients give: only to the public internet, and to these networks.
    #: Comma-separated, such as "10.20.0.0/16"; None: loopback outside production, nothing in production.
    outbound_private_networks: str | None = None

    # Webhooks.
    #: How long one sending may take, from resolving the name to the first bytes of the answer.
    webhook_timeout: Annotated[float, Field(ge=1, le=60)] = 15
    #: How long deliveries are kept; retries go on for three days.
    webhook_retention_days: Annotated[float, Field(ge=4, le=3650)] = 30

    # The simulator answers for every provider without a key.
    simulator_url: str | None = None
    allow_simulator: bool = False

    #: Where a test leaves orders to hold or kill a process at a named point: shared/checkpoints.py.
    test_checkpoints: Path | None = None

    @field_validator("database_url")
    @classmethod
    def _postgresql(cls, url: SecretStr) -> SecretStr:
        if _scheme(url) not in {"postgresql", "postgres", "postgresql+psycopg"}:
            raise ValueError(
                "must start with postgresql://, such as postgresql://user:password@host:5432/plantain"
            )
        _require_address(url)
        return url

    @field_validator("redis_url")
    @classmethod
    def _redis(cls, url: SecretStr) -> SecretStr:
        if _scheme(url) not in {"redis", "rediss"}:
            raise ValueError("must start with redis:// or rediss://, such as redis://:password@host:6379/0")
        _require_address(url)
        path = urlsplit(url.get_secret_value()).path.strip("/")
        if path and not (path.isascii() and path.isdigit()):
            raise ValueError(f"must end with the number of a database, such as /0; {_ENCODE}")
        return url

    @field_validator("simulator_url", "gemini_base_url", "nano_banana_base_url", "public_url")
    @classmethod
    def _http(cls, url: str | None) -> str | None:
        if url is None:
            return None
        url = url.strip()
        # It goes into headers as it is, where a line's end would be one; urlsplit leaves that out, and says nothing.
        if not url.isascii() or not url.isprintable() or " " in url:
            raise ValueError(
                "must be an address in visible ASCII characters; write others as %XX, and a host as xn--…"
            )
        try:
            parts = urlsplit(url)
        except ValueError:  # whose words repeat the address, which may hold a password
            parts = urlsplit("")
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("must be an http:// or https:// address")
        return url.rstrip("/")

    @field_validator("gemini_api_key", "nano_banana_api_key")
    @classmethod
    def _blank_is_no_key(cls, key: SecretStr | None) -> SecretStr | None:
        text = key.get_secret_value().strip() if key else ""
        return SecretStr(text) if text else None

    @field_validator("model_limits")
    @classmethod
    def _limits(cls, text: str) -> str:
        parse_limits(text)
        return text

    @field_validator("forwarded_allow_ips")
    @classmethod
    def _proxies(cls, text: str) -> str:
        text = text.strip()
        if text != "*":
            try:
                parse_networks(text)
            except ValueError as error:
                raise ValueError(
                    f"{error}; names are not looked up: give addresses and networks, such as 127.0.0.1,10.0.0.0/8, or * alone"
                ) from None
        return text

    @field_validator("outbound_private_networks")
    @classmethod
    def _networks(cls, text: str | None) -> str | None:
        parse_networks(text or "")
        return text

    @model_validator(mode="after")
    def _lease_outlives_renewals(self) -> Settings:
        if self.lease_seconds < 2 * self.lease_renew_seconds:
            raise ValueError("LEASE_SECONDS must be at least twice LEASE_RENEW_SECONDS")
        return self

    @model_validator(mode="after")
    def _no_development_secrets_in_production(self) -> Settings:
        if self.environment is not Environment.PRODUCTION:
            return self
        for name, url in (("DATABASE_URL", self.database_url), ("REDIS_URL", self.redis_url)):
            if (urlsplit(url.get_secret_value()).password or "") in _DEVELOPMENT_PASSWORDS:
                raise ValueError(f"{name} has no password or one from the examples: set a secret one")
        if self.simulator_url and not self.allow_simulator:
            raise ValueError(
                "SIMULATOR_URL is set in production, where answers must come from models: unset it and set "
                "GEMINI_API_KEY, or set ALLOW_SIMULATOR=true if this really is a rehearsal"
            )
        if not self.simulator_url and not self.gemini_api_key:
            raise ValueError("GEMINI_API_KEY is missing: every text job would fail")
        if not self.simulator_url and self.nano_banana_api == "gateway" and not self.nano_banana_api_key:
            raise ValueError(
                "NANO_BANANA_API_KEY is missing, and a gateway is never sent Gemini's: every image job would "
                "fail. Set it, or NANO_BANANA_API=google"
            )
        return self

    @model_validator(mode="after")
    def _checkpoints_only_in_tests(self) -> Settings:
        if self.test_checkpoints and self.environment is not Environment.TEST:
            raise ValueError(
                "TEST_CHECKPOINTS lets a test kill this process: it needs ENVIRONMENT=test. Unset it"
            )
        return self

    @property
    def in_production(self) -> bool:
        return self.environment is Environment.PRODUCTION

    @property
    def limits_of_models(self) -> dict[str, tuple[int | None, int | None]]:
        """Calls a minute and calls under way at most, by model alias."""
        return parse_limits(self.model_limits)

    @property
    def outbound_networks(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """Networks that a client's URL may lead to although they are not public."""
        if self.outbound_private_networks is None:
            return () if self.in_production else _LOOPBACK
        return parse_networks(self.outbound_private_networks)

    @property
    def sqlalchemy_url(self) -> str:
        """The database's address with the driver that we use named in it; holds the password."""
        _, _, rest = self.database_url.get_secret_value().partition("://")
        return f"postgresql+psycopg://{rest}"


def _scheme(url: SecretStr) -> str:
    return url.get_secret_value().partition("://")[0].lower()


def _require_address(url: SecretStr) -> None:
    """Refuses what a driver would only refuse later, with a traceback, and with a part of the password in it."""
    text = url.get_secret_value()
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:  # its message names what stands where the port should
        raise ValueError(f"has no port that is a number from 1 to 65535; {_ENCODE}") from None
    if port == 0 or "#" in text or (parts.hostname is None and "host=" not in parts.query):
        raise ValueError(f"has no host and port that can be read; {_ENCODE}")
    if "@" in parts.path:
        raise ValueError(f"has an @ after its host; {_ENCODE}")


def parse_limits(text: str) -> dict[str, tuple[int | None, int | None]]:
    """Reads ``MODEL_LIMITS``.

    Raises:
        ValueError: not of the form; the message shows one that is.
    """
    limits: dict[str, tuple[int | None, int | None]] = {}
    for entry in filter(None, (part.strip() for part in text.split(";"))):
        match = _LIMIT.fullmatch(entry)
        if match is None or not (match["rpm"] or match["in_flight"]):
            raise ValueError(f"{entry!r} is not like nano-banana-pro=rpm:60,in_flight:8 (numbers above 0)")
        limits[match["model"]] = (
            int(match["rpm"]) if match["rpm"] else None,
            int(match["in_flight"]) if match["in_flight"] else None,
        )
    return limits


def parse_networks(text: str) -> tuple[IPv4Network | IPv6Network, ...]:
    """Reads networks, such as ``OUTBOUND_PRIVATE_NETWORKS``, by commas.

    Raises:
        ValueError: not of the form; the message shows one that is.
    """
    networks = []
    for entry in filter(None, (part.strip() for part in text.split(","))):
        try:
            networks.append(ip_network(entry))
        except ValueError:
            raise ValueError(f"{entry!r} is not a network like 10.20.0.0/16 or fd00::/8") from None
    return tuple(networks)


@cache
def get_settings() -> Settings:
    """The process's settings, read once."""
    return Settings()


def problems(error: ValidationError) -> list[str]:
    """What is wrong with settings, a line each, such as ``API_PORT: Input should be …``; no value is shown."""
    return [
        "".join(f"{str(name).upper()}: " for name in part["loc"][:1])
        + part["msg"].removeprefix("Value error, ")
        for part in error.errors(include_url=False, include_input=False, include_context=False)
    ]


def settings_or_exit() -> Settings:
    """The process's settings, for where a process begins: ones that are wrong end it with code 2 and the reasons."""
    try:
        return get_settings()
    except ValidationError as error:
        refuse(problems(error))


def refuse(reasons: list[str]) -> NoReturn:
    """Ends a process that cannot run with its settings."""
    lines = [*reasons, "Not started: set these in the environment or in .env; .env.example lists all."]
    print("\n".join(lines), file=sys.stderr)
    raise SystemExit(2)
