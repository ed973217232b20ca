"""scripts/demo: a text job and an image job through the whole of Plantain, in under a minute, for nothing."""

import argparse
import secrets
import shutil
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

from scripts import stack
from scripts.cli import options
from scripts.client import Client, JobError, Watched
from scripts.holder import HeldError
from scripts.process import ROOT
from scripts.supervisor import StartError, StoppedError
from scripts.terminal import Terminal, seconds

TEXT = "Explain in two sentences what a plantain is."
IMAGE = "A watercolour of a plantain tree at sunrise"
SUFFIXES = {"image/png": ".png", "image/jpeg": ".jpg", "image/webp": ".webp"}
TIMEOUT = 120.0


def main(arguments: list[str]) -> int:
    parsed = _parser().parse_args(arguments)
    terminal = Terminal()
    folder = ROOT / ".plantain" / f"demo-{secrets.token_hex(4)}"
    chosen = stack.Options(
        folder=folder,
        port=0,
        latency_scale=parsed.provider_latency_scale,
        flower=parsed.flower,
        simulator_only=True,
    )
    try:
        with stack.running(chosen, terminal) as running:
            terminal.say(
                f"Plantain is ready after {seconds(running.seconds)}; its API is {running.api_url}\n"
            )
            show_jobs(running, terminal, parsed.output.resolve())
            terminal.status("stopping")
    except StoppedError:
        terminal.say("stopped")
        return 130
    except (stack.UsageError, HeldError, StartError, JobError) as error:
        terminal.bad(str(error))
        parsed.keep = parsed.keep or isinstance(error, StartError | JobError)
        return 1
    finally:
        _clean_up(folder, terminal, keep=parsed.keep)
    terminal.say("\nNext: scripts/up runs all of it until Ctrl-C, and says how to submit jobs of your own.")
    return 0


def show_jobs(running: stack.Stack, terminal: Terminal, output: Path) -> None:
    """Submit the two jobs, follow them, and show what came of them; the picture goes to the folder `output`."""
    with Client(running.api_url, running.api_key) as client:
        text = client.submit("text.generate", "gemini-flash", prompt=TEXT)
        image = client.submit("image.generate", "nano-banana", prompt=IMAGE, aspect_ratio="1:1")
        progress = _Progress(running, terminal, [text, image])
        client.follow([text, image], progress.show, TIMEOUT)
        written = client.result(text)["text"]
        terminal.say(f"\n{terminal.paint('Text', 'bold')}  {TEXT}")
        terminal.say("\n".join(_wrapped(line) for line in written.strip().splitlines()))
        terminal.say(_receipt(text, terminal))
        picture = client.result(image)["images"][0]
        path = output / f"plantain-demo{SUFFIXES.get(picture['media_type'], '.bin')}"
        path.write_bytes(client.download(picture["url"]))
        terminal.say(f"\n{terminal.paint('Image', 'bold')}  {IMAGE}")
        terminal.say(f"  {path}  ({picture['width']} x {picture['height']}, {picture['byte_size']:,} bytes)")
        terminal.say(_receipt(image, terminal))
        _say_who(text, image, terminal)


class _Progress:
    """A moving line on a terminal; elsewhere a line for every change of state."""

    def __init__(self, running: stack.Stack, terminal: Terminal, jobs: list[Watched]) -> None:
        self.running = running
        self.terminal = terminal
        self.jobs = jobs
        self._said: dict[str, str] = {}

    def show(self) -> None:
        if self.running.supervisor.asked:
            raise StoppedError
        for watched in self.jobs:
            kind, state = watched.job["kind"], _state(watched)
            if self._said.get(kind) != state:
                self._said[kind] = state
                self.terminal.say(f"{seconds(watched.elapsed):>7}  {kind:<15} {state}")
        parts = [f"{watched.job['kind']} {_state(watched)}" for watched in self.jobs if not watched.done]
        if parts:
            self.terminal.status(f"{seconds(self.jobs[0].elapsed)}  " + "   ".join(parts))


def _wrapped(line: str) -> str:
    return textwrap.fill(line, width=100, initial_indent="  ", subsequent_indent="  ")


def _state(watched: Watched) -> str:
    reason = watched.job.get("waiting_reason")
    return f"{watched.job['state']} ({reason})" if reason else str(watched.job["state"])


def _receipt(watched: Watched, terminal: Terminal) -> str:
    """States, time, usage and cost in one line."""
    job = watched.job
    usage = ", ".join(
        f"{value:,} {name.replace('_', ' ')}" for name, value in _counts(job.get("usage")).items()
    )
    cost = f"would cost ${job['cost_usd']}" if job.get("cost_usd") is not None else "no cost recorded"
    facts = [" → ".join(watched.states), seconds(watched.elapsed), usage or "no usage recorded", cost]
    return "  " + terminal.paint(" · ".join(facts), "dim")


def _counts(usage: Any) -> dict[str, int]:
    return {name: value for name, value in (usage or {}).items() if isinstance(value, int) and value}


def _say_who(text: Watched, image: Watched, terminal: Terminal) -> None:
    """Say that nobody was paid, after making sure of it."""
    providers = {watched.job.get("provider") for watched in (text, image)}
    if providers != {"simulator"}:
        raise JobError(f"the simulator should have answered, but the jobs name {providers}")
    terminal.say(
        terminal.paint(
            "\nThe simulator on this machine made both. No provider was called and nothing was paid;\n"
            "the costs are what the catalogue's prices would have come to.",
            "yellow",
        )
    )


def _clean_up(folder: Path, terminal: Terminal, *, keep: bool) -> None:
    if keep and folder.exists():
        terminal.say(f"Its data and logs are kept in {folder}")
        return
    for _ in range(20):  # a process that is on its way out may still write
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/demo",
        description="Start Plantain with data of its own, run a text job and an image job on the simulator, show what "
        "came of them, and stop. No provider is called, whatever keys are set.",
    )
    options.add_latency_scale(parser, default=0.25)
    parser.add_argument("--flower", action="store_true", help="start Flower as well")
    parser.add_argument(
        "--output",
        type=Path,
        default=ROOT,
        metavar="DIR",
        help="where the picture goes (default: %(default)s)",
    )
    parser.add_argument("--keep", action="store_true", help="keep the data folder and its logs")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
