"""scripts/bench: what Plantain costs, beside an empty handler, the tutorial's stack and its peers, in one run."""

import argparse
import json
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

from scripts.benching import machine, peer, report
from scripts.benching.baseline import Empty, Tutorial
from scripts.benching.bench import CONNECTIONS, Bench, BenchError, Effort, running
from scripts.benching.figures import as_json
from scripts.benching.grown import Grown
from scripts.benching.parts import http, jobs, memory, streams
from scripts.benching.peer import Peer
from scripts.benching.plantain import Plantain
from scripts.cli import options
from scripts.embedded import EmbeddedError
from scripts.process import ROOT
from scripts.terminal import Terminal

#: Parts that know no subject but Plantain.
OF_OURS: dict[str, Callable[[Bench, list[Plantain]], None]] = {
    "lists": http.lists,
    "drain": jobs.drain,
    "inflight": jobs.inflight,
    "latency": jobs.latency,
    "memory": memory.memory,
    "streams": streams.streams,
}
PARTS = ("submit", "poll", "lists", "drain", "inflight", "latency", "memory", "streams", "growth", "peers")


def main(arguments: list[str]) -> int:
    parsed = _parser().parse_args(arguments)
    terminal = Terminal()
    folder = ROOT / ".plantain" / f"bench-{secrets.token_hex(4)}"
    effort = Effort(parsed.repeats, parsed.seconds, parsed.jobs, parsed.connections)
    keep = True
    facts = machine.facts()
    try:
        with running(folder, effort, terminal) as bench:
            facts |= bench.versions()
            try:
                _measure(bench, parsed.parts or list(PARTS), parsed.against)
            finally:
                _show(bench, facts, parsed.json)
        keep = False
    except (BenchError, EmbeddedError) as error:
        return options.fail(terminal, error, folder)
    except KeyboardInterrupt:
        keep = False
        raise
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
    return 0


def _measure(bench: Bench, parts: list[str], against: Path | None) -> None:
    ours = [Plantain(bench)]
    if against:
        ours.append(Plantain(bench, "against", against.resolve()))
    baselines = [Empty(bench), Tutorial(bench)] if {"submit", "poll"} & set(parts) else []
    apis: list[http.Subject] = [*ours, *baselines]
    bench.terminal.say("starting " + ", ".join(each.name for each in apis))
    for subject in apis:
        subject.start()
    for part in parts:
        bench.terminal.say(part)
        match part:
            case "submit":
                http.submit(bench, apis)
            case "poll":
                http.poll(bench, apis, conditional=ours)
            case "growth":
                _growth(bench, ours[0])
            case "peers":
                _peers(bench, ours)
            case _:
                OF_OURS[part](bench, ours)


def _growth(bench: Bench, empty: Plantain) -> None:
    grown = Grown(bench, "grown")
    grown.start()
    both = [empty, grown]
    http.submit(bench, both, part="growth, submit")
    http.poll(bench, both, conditional=both, part="growth, poll")
    # Copies all have the same prompt, which tells nothing about a search: tests search a million different ones.
    http.lists(bench, both, part="growth, lists", searches=False)
    jobs.drain(bench, both, part="growth, drain")
    jobs.inflight(bench, both, part="growth, inflight")
    jobs.latency(bench, both, part="growth, latency")


def _peers(bench: Bench, ours: list[Plantain]) -> None:
    peers = [Peer(bench, name) for name in peer.names()]
    for each in peers:
        each.start()
    everybody: list[jobs.Engine] = [*ours, *peers]
    jobs.drain(bench, everybody, part="peers, drain")
    jobs.inflight(bench, everybody, jobs.IN_FLIGHT[:1], part="peers, inflight")
    jobs.latency(bench, everybody, part="peers, latency")


def _show(bench: Bench, facts: dict[str, str], to: Path | None) -> None:
    if not bench.samples:
        return
    if to:  # first: they took long to get
        found = {"machine": facts, "effort": vars(bench.effort), "samples": as_json(bench.samples)}
        to.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        bench.terminal.say(f"The samples are in {to}")
    bench.terminal.say(f"\n{report.head(facts)}\n\n{report.tables(bench.samples, 'plantain')}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Measure Plantain on this machine, on servers and data of its own, beside an empty FastAPI handler "
        "and a stack put together as the tutorials do. No provider is called. docs/performance.md explains the figures.",
    )
    add = parser.add_argument
    add(
        "parts",
        nargs="*",
        type=_part,
        metavar="PART",
        help=f"of: {' '.join(PARTS)} (default: all)",
    )
    add("--repeats", type=options.count, default=3, metavar="N", help="(default: %(default)s)")
    add(
        "--seconds",
        type=_seconds,
        default=3.0,
        metavar="S",
        help="of load for each figure of submit and poll; the others grow with it (default: %(default)s)",
    )
    add(
        "--connections",
        type=_connections,
        default=CONNECTIONS,
        metavar="N,N",
        help=f"of submit and poll (default: {','.join(map(str, CONNECTIONS))})",
    )
    add("--jobs", type=_jobs, default=5000, metavar="N", help="that drain runs (default: %(default)s)")
    add("--json", type=Path, metavar="FILE", help="write every sample there")
    add(
        "--against",
        type=Path,
        metavar="DIR",
        help="measure another checkout, with its own .venv, by turns with this one",
    )
    return parser


def _part(text: str) -> str:
    if text not in PARTS:
        raise argparse.ArgumentTypeError(f"{text} is no part; there are: {', '.join(PARTS)}")
    return text


def _seconds(text: str) -> float:
    number = float(text)
    if not 0.2 <= number <= 600:
        raise argparse.ArgumentTypeError("must be between 0.2 and 600")
    return number


def _connections(text: str) -> tuple[int, ...]:
    numbers = tuple(int(part) for part in text.split(","))
    if not all(1 <= number <= 2000 for number in numbers):
        raise argparse.ArgumentTypeError("must be between 1 and 2000 each")
    return numbers


def _jobs(text: str) -> int:
    number = int(text)
    if not 100 <= number <= 1_000_000:
        raise argparse.ArgumentTypeError("must be between 100 and 1000000")
    return number
