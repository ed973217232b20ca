from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator

import orjson
import pytest

from shared.access.keys import new_key
from shared.logging import JsonFormatter, TextFormatter, bound, redact, setup_logging
from tests.conftest import settings_of


@pytest.fixture
def log() -> Iterator[logging.Logger]:
    logger = logging.getLogger("test.logging")
    logger.propagate = False
    logger.setLevel("DEBUG")
    yield logger
    logger.handlers.clear()


def written(log: logging.Logger, formatter: logging.Formatter) -> io.StringIO:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    log.handlers[:] = [handler]
    return stream


def test_json_lines_carry_what_is_bound(log: logging.Logger) -> None:
    stream = written(log, JsonFormatter())
    with bound(request_id="r-1"), bound(job_id="j-1"):
        log.info("took %s", "a job", extra={"attempt": 2})
    line = orjson.loads(stream.getvalue())
    assert line["message"] == "took a job"
    assert (line["request_id"], line["job_id"], line["attempt"], line["level"]) == ("r-1", "j-1", 2, "info")
    assert line["time"].endswith("Z")


def test_what_is_bound_ends_with_its_block(log: logging.Logger) -> None:
    stream = written(log, TextFormatter())
    with bound(request_id="r-1"):
        pass
    log.info("afterwards")
    assert "r-1" not in stream.getvalue()


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_no_secret_reaches_a_line_by_any_way(log: logging.Logger, formatter: logging.Formatter) -> None:
    stream = written(log, formatter)
    key, google, password = new_key(), "AIzaSy" + "x" * 33, "p4ss@w/ord"
    try:
        raise ValueError(f"no connection to postgresql://plantain:{password}@db:5432/plantain")
    except ValueError:
        log.exception("with %s and %s", key, google, extra={"address": f"redis://:{password}@redis:6379/0"})
    for secret in (key, google, password, "ord@"):
        assert secret not in stream.getvalue()
    assert key[:12] in stream.getvalue(), "the prefix says which key it was"


def test_redacting_leaves_ordinary_text_alone() -> None:
    text = "GET /api/v1/jobs?limit=10 from http://127.0.0.1:8000/path took 3 ms, key=unknown"
    assert redact(text) == text
    assert redact("https://host/v1?key=abc&alt=json") == "https://host/v1?key=[redacted]&alt=json"
    assert redact("Authorization: Bearer abcdefghijkl") == "Authorization: Bearer [redacted]"


def test_a_newline_in_a_message_makes_no_line_of_its_own(log: logging.Logger) -> None:
    stream = written(log, TextFormatter())
    log.info("asked for %s", "x\n2026-01-01T00:00:00.000Z ERROR root: forged\x1b[31m")
    assert stream.getvalue().count("\n") == 1
    assert "\x1b" not in stream.getvalue()


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_a_lone_surrogate_is_written_escaped(log: logging.Logger, formatter: logging.Formatter) -> None:
    stream = written(log, formatter)
    log.info("a %s", "\ud800", extra={"field": "\udfff"})
    stream.getvalue().encode()
    assert "d800" in stream.getvalue()


def test_setup_replaces_handlers_and_sets_the_level(monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [logging.NullHandler()])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    level = root.level
    settings = settings_of(
        database_url="postgresql://u:p@127.0.0.1/x",
        redis_url="redis://127.0.0.1",
        log_format="json",
        log_level="WARNING",
    )
    try:
        setup_logging(settings)
        setup_logging(settings)
        assert len(root.handlers) == 1
        assert isinstance(root.handlers[0].formatter, JsonFormatter)
        assert root.level == logging.WARNING
        written = io.StringIO()
        root.handlers[0].stream = written  # type: ignore[attr-defined]
        sys.excepthook(ValueError, ValueError("AIza" + "x" * 30), None)
        line = orjson.loads(written.getvalue())
        assert (line["level"], line["message"]) == ("critical", "ended by ValueError")
        assert "xxx" not in line["exception"]
    finally:
        root.setLevel(level)
        logging.captureWarnings(capture=False)
