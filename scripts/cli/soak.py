"""scripts/soak: the whole of Plantain under mixed load, with a fault every few seconds, for as long as is wanted."""

import argparse
import json
import secrets
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from random import Random, SystemRandom
from typing import Any, TextIO

import psycopg

from scripts import stack
from scripts.holder import HeldError
from scripts.process import ROOT
from scripts.soaking import verdict as verdicts
from scripts.soaking.faults import Faults
from scripts.soaking.load import Load
from scripts.soaking.measure import Connections, Watch, connections
from scripts.soaking.verdict import Verdict
from scripts.supervisor import StartError, StoppedError
from scripts.terminal import Terminal

#: Sooner than in production, so that twenty minutes hold many recoveries; the mechanisms are the same.
SETTINGS = {
    "LEASE_SECONDS": "10",
    "LEASE_RENEW_SECONDS": "2",
    "REPUBLISH_AFTER_SECONDS": "5",
    "RETRY_BASE_SECONDS": "0.5",
    "RETRY_CAP_SECONDS": "5",
    "PROVIDER_PAUSE_SECONDS": "2",
    "PROVIDER_PAUSE_CAP_SECONDS": "10",
    "WORKER_CONCURRENCY": "50",
    "DATABASE_POOL_SIZE": "10",
    "MODEL_LIMITS": "",
}
SAMPLE_SECONDS = 3.0
#: Of load, before connections are counted for the first time.
WARM_SECONDS = 5.0
#: How long the last jobs may take when the load has ended and nothing is broken any more.
DRAIN_SECONDS = 240.0
#: After that: what is only being put away has gone by then.
IDLE_SECONDS = 10.0


@dataclass
class Soak:
    """One run and what it needs at every turn."""

    running: stack.Stack
    terminal: Terminal
    load: Load
    faults: Faults
    watch: Watch
    minutes: float
    began: float = field(default_factory=time.monotonic)
    states: dict[str, int] = field(default_factory=dict)
    #: When every process has opened its pool; before the first fault.
    start: Connections | None = None
    _said: float = 0.0
    _asked: float = 0.0

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.began

    def go(self) -> None:
        """Load and faults, then calm until every job is final. Raises `StoppedError`."""
        supervisor = self.running.supervisor
        self.load.start()
        supervisor.watch(lambda: self._turn(breaking=True) or self.elapsed > self.minutes * 60)
        self.load.end()
        self.faults.mend()
        drain = time.monotonic() + DRAIN_SECONDS
        supervisor.watch(lambda: self._turn() or self._drained() or time.monotonic() > drain)
        idle = time.monotonic() + IDLE_SECONDS
        supervisor.watch(lambda: self._turn() or time.monotonic() > idle)
        self.terminal.clear()
        if supervisor.asked:
            raise StoppedError

    def _turn(self, *, breaking: bool = False) -> bool:
        if self.start is None and self.elapsed > WARM_SECONDS:
            self.start = connections(self.running.database_url, self.running.redis_url)
        if breaking:
            self.faults.tick()
        self.watch.tick(self.running.supervisor.pids)
        self._show()
        return False

    def _drained(self) -> bool:
        unfinished = {"queued", "running", "unknown"} & set(self.states)
        return not unfinished and self.load.unseen() == 0

    def _show(self) -> None:
        now = time.monotonic()
        if now - self._asked > 2:
            self._asked = now
            self.states = _states(self.running.database_url)
        last = self.faults.log[-1][1] if self.faults.log else "none yet"
        jobs = " ".join(f"{count:,} {state}" for state, count in sorted(self.states.items()))
        line = (
            f"{_clock(self.elapsed)} of {_clock(self.minutes * 60)}  {jobs}  "
            f"faults: {self.faults.done.total()}, last {last}"
        )
        self.terminal.status(line)
        if not self.terminal.live and now - self._said > 30:
            self._said = now
            self.terminal.say(line)


def main(arguments: list[str]) -> int:
    parsed = _parser().parse_args(arguments)
    terminal = Terminal(sys.stderr if parsed.json else sys.stdout)
    seed = parsed.seed if parsed.seed is not None else SystemRandom().randrange(1, 1_000_000)
    folder = ROOT / ".plantain" / f"soak-{secrets.token_hex(4)}"
    terminal.say(f"seed {seed}: scripts/soak --minutes {parsed.minutes:g} --seed {seed}")
    keep = True
    try:
        report = _run(parsed, seed, folder, terminal)
        keep = parsed.keep or not report["passed"]
    except StoppedError:
        terminal.say("stopped")
        keep = parsed.keep
        return 130
    except (stack.UsageError, HeldError, StartError) as error:
        terminal.bad(str(error))
        return 1
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
        elif folder.exists():
            terminal.say(f"Its data and logs are kept in {folder}")
    parsed.report.parent.mkdir(parents=True, exist_ok=True)
    parsed.report.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if parsed.json:
        print(json.dumps({name: value for name, value in report.items() if name != "samples"}), flush=True)
    show(report, terminal)
    terminal.say(f"The report is {parsed.report}")
    return 0 if report["passed"] else 1


def _run(parsed: argparse.Namespace, seed: int, folder: Path, terminal: Terminal) -> dict[str, Any]:
    chosen = stack.Options(
        folder=folder,
        port=0,
        workers=parsed.workers,
        flower=False,
        simulator_only=True,
        settings=SETTINGS,
    )
    with stack.running(chosen, terminal) as running, _log_of(folder) as log:
        # From here on restarts are the test's doing: they go to a file, not between the lines of progress.
        running.supervisor.terminal = Terminal(log)
        try:
            return _soak(parsed, seed, running, terminal)
        finally:
            running.supervisor.terminal = terminal


def _log_of(folder: Path) -> TextIO:
    return (folder / "logs" / "supervisor.log").open("a", encoding="utf-8")


def _soak(parsed: argparse.Namespace, seed: int, running: stack.Stack, terminal: Terminal) -> dict[str, Any]:
    random = Random(seed)
    load = Load(running.api_url, running.api_key, Random(random.random()), parsed.jobs_per_second)
    faults = Faults(running, Random(random.random()), parsed.fault_every)
    soak = Soak(running, terminal, load, faults, Watch(SAMPLE_SECONDS), parsed.minutes)
    try:
        soak.go()
    finally:
        load.close()
    terminal.status("judging")
    return {
        "seed": seed,
        "minutes": parsed.minutes,
        "jobs_per_second": parsed.jobs_per_second,
        **judged(soak),
    }


def judged(soak: Soak) -> dict[str, Any]:
    """The report of a run that has come to its end."""
    running, load, found = soak.running, soak.load, Verdict()
    assert running.simulator_url is not None
    assert soak.start is not None, "the run ended before it had begun"
    end, pool_size = (
        connections(running.database_url, running.redis_url),
        int(SETTINGS["DATABASE_POOL_SIZE"]),
    )
    verdicts.judge_connections(found, soak.start, end, pool_size)
    verdicts.judge_growth(found, soak.watch.longest(), int(SETTINGS["WORKER_CONCURRENCY"]))
    verdicts.judge_jobs(found, running.database_url, running.simulator_url, load.told)
    found.wrong += load.problems
    found.require(soak.faults.done.total() > 0, "nothing was broken: the run was too short")
    return {
        "passed": not found.wrong,
        "wrong": found.wrong,
        "took": round(soak.elapsed),
        **found.figures,
        "answers": {
            f"{method} {status or 'none'}": n for (method, status), n in sorted(load.answers.items())
        },
        "slowest": {method: round(took, 2) for method, took in load.slowest.items()},
        "pictures checked": load.pictures_checked,
        "faults": dict(sorted(soak.faults.done.items())),
        "starts": dict(sorted(soak.watch.lives().items())),
        "fault log": soak.faults.log,
        "samples": soak.watch.samples,
    }


def show(report: dict[str, Any], terminal: Terminal) -> None:
    """The table for people."""
    jobs, calls = report["jobs"], report["calls"]
    rows = [
        ("jobs accepted", f"{jobs['accepted']:,}  ({_listed(jobs['by state'])})"),
        ("failed as", _listed(jobs["by error"])),
        ("attempts", f"{report['attempts']['all']:,}  ({_listed(report['attempts']['by outcome'])})"),
        ("provider calls", f"{calls['made']:,} made, {calls['attempts noted as sent']:,} noted as sent"),
        (
            "bills",
            f"{calls['billed']:,} for {calls['jobs billed']:,} jobs, {calls['unexplained']} unexplained",
        ),
        ("bills without success", _listed(calls["billed without success, by outcome"])),
        ("artifacts", _listed(report["artifacts"])),
        ("pictures checked", f"{report['pictures checked']:,}"),
        ("API answers", _listed(report["answers"])),
        ("slowest answer", ", ".join(f"{name} {took} s" for name, took in report["slowest"].items())),
        ("faults", f"{sum(report['faults'].values())}  ({_listed(report['faults'])})"),
        ("processes started", _listed(report["starts"])),
        (
            "connections",
            " → ".join(_listed(report["connections"][at]["by_application"]) for at in ("start", "end")),
        ),
        (
            "Redis connections",
            " → ".join(str(report["connections"][at]["of_redis"]) for at in ("start", "end")),
        ),
    ]
    terminal.say()
    for name, value in rows:
        terminal.say(f"  {terminal.paint(f'{name:<22}', 'dim')}{value}")
    terminal.say(
        f"\n  {'process':<12}{'lived':>7}{'RSS MiB first':>15}{'middle':>8}{'last':>6}{'most':>6}"
        f"{'MiB/min':>9}{'threads':>11}{'files':>11}"
    )
    for name, each in report["processes"].items():
        terminal.say(
            f"  {name:<12}{each['lived']:>5} s{each['rss first']:>15}{each['rss middle']:>8}{each['rss last']:>6}"
            f"{each['rss most']:>6}{each['slope']:>9}{_change(each, 'threads'):>11}{_change(each, 'files'):>11}"
            f"  {each['verdict']}"
        )
    terminal.say()
    for problem in report["wrong"][:20]:
        terminal.bad(problem)
    if report["passed"]:
        terminal.good("the soak passed", f"{report['minutes']:g} minutes, seed {report['seed']}")
    else:
        terminal.bad(f"the soak failed in {len(report['wrong'])} ways", f"seed {report['seed']}")


def _change(process: dict[str, Any], what: str) -> str:
    return f"{process[f'{what} first']} → {process[f'{what} last']}"


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items()) or "none"


def _states(database_url: str) -> dict[str, int]:
    """Jobs by state; one `unknown` while the database is away."""
    try:
        with psycopg.connect(database_url, autocommit=True, connect_timeout=2) as db:
            return dict(db.execute("SELECT state, count(*) FROM jobs GROUP BY state").fetchall())
    except psycopg.OperationalError:
        return {"unknown": 1}


def _clock(duration: float) -> str:
    return f"{int(duration) // 60}:{int(duration) % 60:02}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/soak",
        description="Run all of Plantain with data of its own, under mixed load from the simulator's users, break "
        "something every few seconds, and judge in the end: every accepted job final, no bill without a reason, "
        "nothing leaked. No provider is called.",
    )
    add = parser.add_argument
    add(
        "--minutes", type=float, default=20, metavar="N", help="how long there is load (default: %(default)s)"
    )
    add("--seed", type=int, help="repeats the order of the faults and, but for its timing, the load")
    add("--jobs-per-second", type=float, default=8, metavar="N", help="on average (default: %(default)s)")
    add("--fault-every", type=float, default=20, metavar="SECONDS", help="(default: %(default)s)")
    add("--workers", type=int, choices=range(2, 9), default=3, help="processes (default: %(default)s)")
    add("--json", action="store_true", help="print the report to stdout, without samples; all else to stderr")
    add(
        "--report",
        type=Path,
        default=ROOT / ".plantain" / "soak.json",
        metavar="FILE",
        help="where the report goes, samples and all (default: %(default)s)",
    )
    add("--keep", action="store_true", help="keep data and logs; they are kept anyway when it fails")
    return parser
