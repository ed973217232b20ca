"""scripts/plantain: jobs from the shell. Also the console script ``plantain``."""

from __future__ import annotations

import logging
import os
import sys
from io import TextIOWrapper
from pathlib import Path

from scripts.commands.actions import COMMANDS, Session, UsageError
from scripts.commands.output import Output
from scripts.commands.parser import parse
from shared.client import (
    ApiError,
    ConfigurationError,
    NoAnswer,
    PlantainError,
    RateLimited,
    Unavailable,
    UnexpectedAnswer,
    WaitTimeout,
)
from shared.client.connection import key_from

FAILED, USAGE, REFUSED, AWAY, TIMED_OUT, INTERRUPTED, PIPE_CLOSED = 1, 2, 3, 4, 5, 130, 141
#: The first that an error is decides.
_EXIT_CODES: tuple[tuple[type[Exception], int], ...] = (
    (ConfigurationError, USAGE),
    (UsageError, USAGE),
    (WaitTimeout, TIMED_OUT),
    (RateLimited, AWAY),
    (Unavailable, AWAY),
    (NoAnswer, AWAY),
    (UnexpectedAnswer, AWAY),
    (ApiError, REFUSED),
)


class _Remarks(logging.Handler):
    """Says what the client tries again, so that waiting is not silence."""

    def __init__(self, out: Output) -> None:
        super().__init__()
        self._out = out

    def emit(self, record: logging.LogRecord) -> None:
        self._out.remark(self._out.remarks.paint(record.getMessage(), "dim"))


def command() -> None:
    """The console script."""
    sys.exit(main(sys.argv[1:]))


def main(arguments: list[str]) -> int:
    prog = "scripts/plantain" if Path(sys.argv[0]).parent.name == "scripts" else "plantain"
    parsed = parse(arguments, prog)
    out = Output(as_json=parsed.json, quiet=parsed.quiet)
    retries = logging.getLogger("plantain.client")
    retries.addHandler(_Remarks(out))
    retries.setLevel(logging.INFO)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot show a character shows another
    session = Session(parsed.url, None, out, prog)
    try:
        if parsed.key_file:
            session.key = key_from(parsed.key_file)
        return COMMANDS[parsed.command](session, parsed)
    except KeyboardInterrupt:
        out.remarks.clear()
        if session.on_interrupt:
            out.remarks.say(session.on_interrupt)
        return INTERRUPTED
    except BrokenPipeError:
        # Nobody reads on. What is buffered must not fail once more at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except (PlantainError, UsageError, OSError) as error:
        return _failed(error, session)


def _failed(error: Exception, session: Session) -> int:
    out = session.out.remarks
    out.bad(str(error))
    if isinstance(error, WaitTimeout | NoAnswer | RateLimited | Unavailable) and session.on_interrupt:
        out.say(session.on_interrupt)
    return next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), FAILED)
