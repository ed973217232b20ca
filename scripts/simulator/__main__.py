"""`python -m scripts.simulator`."""

import argparse
import os
import sys

from .app import create_app
from .server import run
from .settings import GATEWAY_MODES, WEIGHTS, BadSetting, Settings
from .state import Simulator


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.simulator",
        description="Imitates the model providers on loopback. Everything it makes is marked as simulated.",
    )
    add = parser.add_argument
    add("--host", default=os.environ.get("SIMULATOR_HOST", "127.0.0.1"))
    add("--port", type=int, default=int(os.environ.get("SIMULATOR_PORT", "8900")), help="0 takes a free one")
    add("--latency-scale", type=float, default=1.0, help="1 = as slow as the real ones, 0 = at once")
    add("--fault-rate", action="append", default=[], metavar="NAME=SHARE", help="for instance 503=0.05")
    add("--rpm", action="append", default=[], metavar="[MODEL=]N", help="requests a window, per model")
    add("--concurrency", action="append", default=[], metavar="[MODEL=]N", help="calls at a time, per model")
    add("--rate-window", type=float, default=60.0, metavar="SECONDS", help="the window of --rpm")
    add("--extra-model", action="append", default=[], metavar="ID=text|image")
    add("--gateway-mode", choices=GATEWAY_MODES, default="sync", help="answer 200, or 202 and a poll")
    add(
        "--picture-weight",
        choices=WEIGHTS,
        default=os.environ.get("SIMULATOR_PICTURE_WEIGHT", "real"),
        help="light pictures carry no grain: for load tests",
    )
    add("--painters", type=int, default=2, help="threads that paint")
    add("--seed", type=int, help="makes latencies and fault rates repeatable")
    return parser


def _settings(given: argparse.Namespace) -> Settings:
    """Raises BadSetting."""
    settings = Settings()
    settings.update(
        {
            "latency_scale": given.latency_scale,
            "rate_window": given.rate_window,
            "picture_weight": given.picture_weight,
            "gateway_mode": given.gateway_mode,
            "fault_rates": {name: _number(value) for name, value in _pairs(given.fault_rate)},
            "rpm": {model or "*": _number(value) for model, value in _pairs(given.rpm)},
            "concurrency": {model or "*": _number(value) for model, value in _pairs(given.concurrency)},
            "extra_models": dict(_pairs(given.extra_model)),
        }
    )
    return settings


def _pairs(given: list[str]) -> list[tuple[str, str]]:
    """`name=value` as a pair, a bare value with an empty name."""
    return [(left, right) for left, _, right in (text.rpartition("=") for text in given)]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise BadSetting(f"{text!r} is not a number") from None


def main() -> int:
    """Serve until SIGTERM or SIGINT; 2 for a flag that makes no sense."""
    given = _parser().parse_args()
    try:
        settings = _settings(given)
    except BadSetting as error:
        print(f"simulator: {error}", file=sys.stderr)
        return 2
    simulator = Simulator(settings, given.seed, given.painters)
    run(create_app(simulator), given.host, given.port)
    return 0


if __name__ == "__main__":
    sys.exit(main())
