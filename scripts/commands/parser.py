"""What scripts/plantain takes on its command line. The API key is not among it: everybody can read a command line."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

EPILOG = """\
environment:
  PLANTAIN_URL            the server's address; scripts/up prints it
  PLANTAIN_API_KEY        the API key
  PLANTAIN_API_KEY_FILE   a file that holds it
  NO_COLOR                no colours

exit codes:
  0    it went well; for --wait and watch: the job succeeded
  1    the job ended otherwise, or its result could not be saved
  2    something on the command line or in the environment is wrong
  3    the server refused the request
  4    the server could not be reached, or is busy
  5    --timeout passed first; the job goes on
  130  Ctrl-C; a job that was submitted goes on
"""


def parse(arguments: Sequence[str], prog: str) -> argparse.Namespace:
    """Ends the process with 2 where they make no sense."""
    parser = argparse.ArgumentParser(
        prog=prog,
        allow_abbrev=False,  # `--key pln_…` is not a short form of `--key-file`
        description="Submit generation jobs to Plantain, watch them, and fetch what they made.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    shared = _shared()
    for name, (add_arguments, summary) in _COMMANDS.items():
        add_arguments(commands.add_parser(name, parents=[shared], help=summary, allow_abbrev=False))
    return parser.parse_args(arguments)


def _shared() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--url", help="the server's address (default: PLANTAIN_URL)")
    shared.add_argument(
        "--key-file",
        type=Path,
        metavar="FILE",
        help="a file that holds the API key (default: PLANTAIN_API_KEY)",
    )
    shared.add_argument("--json", action="store_true", help="JSON on stdout, one object a line")
    shared.add_argument("-q", "--quiet", action="store_true", help="say nothing but errors on stderr")
    return shared


def _submit(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Submits a job and prints its id. The prompt is the argument, --file, or what comes on stdin."
    )
    parser.add_argument("prompt", nargs="?", help="the prompt; - or nothing: stdin")
    parser.add_argument("-f", "--file", type=Path, help="a file that holds the prompt")
    parser.add_argument("-k", "--kind", help="the kind (default: text.generate)")
    parser.add_argument(
        "--image",
        dest="kind",
        action="store_const",
        const="image.generate",
        help="the same as --kind image.generate",
    )
    parser.add_argument("-m", "--model", help="an alias (default: the kind's)")
    parser.add_argument(
        "-i",
        "--input",
        type=_pair_of_json,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a field of the input, such as aspect_ratio=16:9 or temperature=0.2; may be repeated",
    )
    parser.add_argument(
        "--picture",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="a picture to work on; may be repeated",
    )
    parser.add_argument("--priority", choices=["interactive", "standard", "batch"])
    parser.add_argument("--tag", action="append", default=[], help="may be repeated")
    parser.add_argument(
        "--metadata", type=_pair, action="append", default=[], metavar="KEY=VALUE", help="may be repeated"
    )
    parser.add_argument(
        "--at", type=_time, metavar="TIME", help="not before this time, such as 2030-01-31T12:00:00Z"
    )
    parser.add_argument("--expires", type=_time, metavar="TIME", help="given up if it still waits by then")
    parser.add_argument("--keep-for", metavar="DURATION", help="kept so long once it is final, such as P7D")
    parser.add_argument("--stream", action="store_true", help="wait, and print the text as it is made")
    _once(parser)
    _waiting(parser)


def _watch(parser: argparse.ArgumentParser) -> None:
    parser.description = "Follows jobs until all are final. With --json a line for every change."
    _ids(parser)
    _timeout(parser)


def _get(parser: argparse.ArgumentParser) -> None:
    _ids(parser)
    parser.add_argument("--attempts", action="store_true", help="with every attempt")


def _list(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--state",
        action="append",
        default=[],
        help="queued running succeeded failed cancelled expired; may be repeated",
    )
    parser.add_argument("--kind")
    parser.add_argument("--model")
    parser.add_argument("--priority", choices=["interactive", "standard", "batch"])
    parser.add_argument("--tag", action="append", default=[])
    parser.add_argument("--metadata", type=_pair, action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--batch", metavar="ID", help="came with this batch")
    parser.add_argument("--after", type=_time, metavar="TIME", help="created at this time or later")
    parser.add_argument("--before", type=_time, metavar="TIME", help="created before this time")
    parser.add_argument("--search", metavar="TEXT", help="stands in the prompt")
    parser.add_argument("-n", "--limit", type=_count, default=20, help="jobs at most (default: %(default)s)")
    parser.add_argument("--all", action="store_true", help="without a limit")
    parser.add_argument("--ids", action="store_true", help="ids only, for pipes")


def _replay(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", help="the job's id")
    parser.add_argument(
        "-i",
        "--input",
        type=_pair_of_json,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a field of the input to change; null takes it back to its default",
    )
    parser.add_argument("-m", "--model", help="another model")
    parser.add_argument("--priority", choices=["interactive", "standard", "batch"])
    _once(parser)
    _waiting(parser)


def _download(parser: argparse.ArgumentParser) -> None:
    parser.description = "Writes text to stdout and pictures to files, or both to where -o says."
    parser.add_argument("id", help="the job's id")
    parser.add_argument("--artifact", action="store_true", help="the id is an artifact's")
    _output(parser)


def _ids(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ids", nargs="+", metavar="ID", help="a job's id")


def _once(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--idempotency-key", metavar="NAME", help="the same name within 7 days gives the same job"
    )


def _waiting(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-w", "--wait", action="store_true", help="wait for the end and fetch the result")
    _timeout(parser)
    _output(parser)


def _timeout(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="wait no longer than this")


def _output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", metavar="PATH", help="a file, a folder, or - for stdout")


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE, not {text!r}")
    return name, value


def _pair_of_json(text: str) -> tuple[str, Any]:
    """Numbers, true, false, null, objects and arrays are JSON; anything else is a text."""
    name, value = _pair(text)
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _time(text: str) -> datetime:
    """A time without a zone is the machine's."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        raise argparse.ArgumentTypeError("must be a time such as 2030-01-31T12:00:00Z") from None


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError("must be a number of jobs")
    return int(text)


_COMMANDS = {
    "submit": (_submit, "submit a job"),
    "watch": (_watch, "follow jobs until they are final"),
    "get": (_get, "look at jobs"),
    "cancel": (_ids, "call jobs off"),
    "list": (_list, "list jobs, newest first"),
    "replay": (_replay, "run a job again, perhaps with changes"),
    "download": (_download, "fetch what a job made"),
}
