"""Logging, set up in one place for every process: text for people or JSON for machines, on standard error.

Every line carries what ``bound`` says about the work it belongs to (``request_id``, ``job_id``), and no
line carries a secret: what looks like a key or a password is cut out of the finished line, tracebacks
included.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import orjson

from shared.config import Settings

#: What the present task's log lines say about it. Replaced as a whole, never changed in place.
context: ContextVar[Mapping[str, str]] = ContextVar("log_context", default={})  # noqa: B039

_REDACTED = "[redacted]"
_SECRETS = (
    # An API key of ours: its prefix is no secret and says which key it was.
    (re.compile(r"(pln_[A-Za-z0-9]{1,16}_)[A-Za-z0-9_-]{8,}"), rf"\1{_REDACTED}"),
    # Google's API keys, in both forms that it gives out.
    (re.compile(r"\b(AIza|AQ\.)[A-Za-z0-9_-]{16,}"), rf"\1{_REDACTED}"),
    # The password in an address; it ends at the last @, because it may hold one itself.
    (re.compile(r"""(://[^\s:/@"']{0,128}:)[^\s"']{0,512}@"""), rf"\1{_REDACTED}@"),
    (re.compile(r"(\b[Bb]earer )[A-Za-z0-9._~+/-]{8,}=*"), rf"\1{_REDACTED}"),
    (
        re.compile(r"""([?&](?:key|api_key|apikey|token|access_token|secret)=)[^&\s"']+""", re.IGNORECASE),
        rf"\1{_REDACTED}",
    ),
)
#: A secret holds one of these; a line without any needs no search.
_SIGNS = ("pln_", "AIza", "AQ.", "://", "earer ", "?", "&")

#: Libraries that say more than anybody wants to read, some of it addresses with keys.
_QUIET = ("httpx", "httpcore", "httpx2", "httpcore2", "google_genai", "kombu", "amqp", "asyncio", "urllib3")
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), 127)} | {9: "\t", 10: "\\n", 13: "\\r"}


def setup_logging(settings: Settings) -> None:
    """Sends everything that is logged or warned of in this process to standard error, in the configured form."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if settings.log_format == "json" else TextFormatter())
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(settings.log_level)
    logging.captureWarnings(True)
    sys.excepthook = _log_what_ends_the_process
    if settings.log_level != "DEBUG":
        for name in _QUIET:
            logging.getLogger(name).setLevel(logging.WARNING)


def _log_what_ends_the_process(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        logging.getLogger(__name__).critical("ended by %s", kind.__name__, exc_info=(kind, error, trace))


@contextmanager
def bound(**fields: str) -> Iterator[None]:
    """Adds fields to every line logged inside, by this task and those it starts."""
    token = context.set({**context.get(), **fields})
    try:
        yield
    finally:
        context.reset(token)


def redact(text: str) -> str:
    """The text without what looks like a secret."""
    if any(sign in text for sign in _SIGNS):
        for pattern, replacement in _SECRETS:
            text = pattern.sub(replacement, text)
    return text


class TextFormatter(logging.Formatter):
    """One line each: time, level, logger, message, fields; a traceback follows on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        # A newline in what a client sent must not look like a line of ours.
        message = _printable(record.getMessage())
        fields = "".join(f" {name}={_plain(value)}" for name, value in _fields(record).items())
        line = f"{_time(record)} {record.levelname:<7} {record.name}: {message}{fields}"
        trace = _traceback(self, record)
        return _encodable(redact(f"{line}\n{trace}" if trace else line))


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _encodable(redact(record.getMessage())),
        }
        for name, value in _fields(record).items():
            entry[name] = (
                value if isinstance(value, int | float | bool | None) else _encodable(redact(str(value)))
            )
        if trace := _traceback(self, record):
            entry["exception"] = _encodable(redact(trace))
        return orjson.dumps(entry).decode()


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    values = vars(record)
    return {**context.get(), **{name: values[name] for name in values.keys() - _STANDARD}}


def _time(record: logging.LogRecord) -> str:
    return (
        datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    )


def _plain(value: Any) -> str:
    text = _printable(str(value))
    return orjson.dumps(_encodable(text)).decode() if " " in text or not text else text


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    parts = [formatter.formatException(record.exc_info)] if record.exc_info else []
    if record.stack_info:
        parts.append(formatter.formatStack(record.stack_info))
    return "\n".join(parts)


def _encodable(text: str) -> str:
    """The text, with lone surrogates escaped: neither UTF-8 nor orjson takes them."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _printable(text: str) -> str:
    return text if text.isprintable() else text.translate(_CONTROL)
