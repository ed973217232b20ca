"""scripts/up: everything Plantain needs, on this machine, until Ctrl-C."""

import argparse
import json
import sys
from pathlib import Path

from scripts import stack
from scripts.cli import options
from scripts.holder import HeldError
from scripts.supervisor import StartError, StoppedError
from scripts.terminal import Terminal, seconds

PROMPT = "Write a haiku about plantains."


def main(arguments: list[str]) -> int:
    parsed = _parser().parse_args(arguments)
    terminal = Terminal(sys.stderr if parsed.json else sys.stdout)
    chosen = stack.Options(
        folder=parsed.data_dir.resolve(),
        port=parsed.port,
        workers=parsed.workers,
        latency_scale=parsed.provider_latency_scale,
        flower=parsed.flower,
        external=parsed.external,
        simulator_only=parsed.simulator,
    )
    try:
        with stack.running(chosen, terminal) as running:
            if parsed.json:
                print(json.dumps(facts(running)), flush=True)
            else:
                terminal.say(summary(running))
            running.supervisor.watch()
            terminal.say("stopping")
    except StoppedError:
        terminal.say("stopped while starting")
    except (stack.UsageError, HeldError) as error:
        return options.fail(terminal, error)
    except StartError as error:
        return options.fail(terminal, error, chosen.folder)
    else:
        terminal.say("stopped; the data is kept in " + shown(chosen.folder))
    return 0


def facts(running: stack.Stack) -> dict[str, object]:
    """What --json prints, on one line, once everything is ready."""
    return {
        "api_url": running.api_url,
        "api_key": running.api_key,
        "database_url": running.database_url,
        "redis_url": running.redis_url,
        "simulator_url": running.simulator_url,
        "flower_url": running.flower_url,
        "flower_user": stack.FLOWER_USER if running.flower_url else None,
        "flower_password": running.flower_password if running.flower_url else None,
        "data_dir": str(running.options.folder),
        "pids": running.pids,
    }


def summary(running: stack.Stack) -> str:
    """What a person wants to know once everything is ready."""
    paint = running.terminal.paint
    rows = [("API", running.api_url), ("Docs", f"{running.api_url}/docs")]
    if running.flower_url:
        login = f"user {stack.FLOWER_USER}, password {running.flower_password}"
        rows.append(("Flower", f"{running.flower_url}  {paint(login, 'dim')}"))
    rows.append(("API key", running.api_key))
    rows.append(("Data, logs", shown(running.options.folder)))
    lines = ["", paint(f"Plantain is ready after {seconds(running.seconds)}", "bold", "green"), ""]
    lines += [f"  {paint(f'{name:<11}', 'dim')}{value}" for name, value in rows]
    if running.simulated:
        who = " and ".join(running.simulated)
        why = "--simulator" if running.options.simulator_only else "no key is set"
        note = f"  The simulator stands in for {who} ({why}): nothing is paid for it."
        lines += ["", paint(note, "yellow")]
    lines += [
        "",
        "  Try it:",
        "",
        *(f"    {line}" for line in curl(running)),
        "",
        "  The answer's status_url and result_url are asked with the same key. Or, with a command of ours:",
        "",
        f"    export PLANTAIN_URL={running.api_url} PLANTAIN_API_KEY={running.api_key}",
        f"    scripts/plantain submit --wait '{PROMPT}'",
        "",
        "  Ctrl-C stops everything.",
        "",
    ]
    return "\n".join(lines)


def curl(running: stack.Stack) -> list[str]:
    """A command to copy: submits a text job."""
    body = json.dumps({"kind": "text.generate", "model": "gemini-flash", "input": {"prompt": PROMPT}})
    return [
        f"curl -s {running.api_url}/api/v1/jobs \\",
        f"  -H 'Authorization: Bearer {running.api_key}' \\",
        "  -H 'Content-Type: application/json' \\",
        f"  -d '{body}'",
    ]


def shown(folder: Path) -> str:
    """The folder as the user would type it."""
    return str(folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/up",
        description="Start PostgreSQL, Valkey, the API, workers, beat and Flower on this machine, until Ctrl-C.",
        epilog="Settings come from the environment and from .env: .env.example lists them. Where a provider has no "
        "key, a simulator stands in for it.",
    )
    parser.add_argument(
        "--workers",
        type=options.count,
        default=1,
        metavar="N",
        help="worker processes (default: %(default)s)",
    )
    options.add_data_dir(parser)
    parser.add_argument(
        "--port", type=options.port, help="the API's port (default: 8000, or the next free one)"
    )
    options.add_latency_scale(parser, default=1.0)
    parser.add_argument(
        "--simulator",
        action="store_true",
        help="let the simulator answer for all providers, whatever keys are set",
    )
    parser.add_argument("--no-flower", dest="flower", action="store_false", help="without Flower")
    parser.add_argument(
        "--external",
        action="store_true",
        help="use the PostgreSQL and Redis of DATABASE_URL and REDIS_URL instead of starting them",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="once ready, print one line of JSON to stdout; all else goes to stderr",
    )
    return parser
