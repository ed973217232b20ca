"""The process itself: its first line, its flags, its end."""

import ast
import random
import socket
import subprocess
import sys
import threading
import time

import httpx

from scripts.simulator.calls import CallBoard
from scripts.simulator.facts import MODELS
from scripts.simulator.latency import draw

from .conftest import ROOT, SimulatorProcess
from .wire import KEY, TEXT_MODEL, body


def test_first_line_flags_and_a_clean_end_with_a_request_under_way() -> None:
    running = SimulatorProcess("--latency-scale", "0.5", "--rpm", "100", "--fault-rate", "503=0.25")
    assert running.line.startswith("simulator listening on http://127.0.0.1:")
    settings = running.control("GET", "config")
    assert (settings["latency_scale"], settings["rpm"], settings["fault_rates"]) == (
        0.5,
        {"*": 100},
        {"503": 0.25},
    )
    running.configure(fault_rates=None)
    outcome: list[object] = []

    def slow() -> None:
        path = f"{running.url}/v1beta/models/{TEXT_MODEL}:generateContent"
        try:
            outcome.append(httpx.post(path, json=body("x [[sim:latency=60]]"), headers=KEY, timeout=30))
        except httpx.HTTPError as error:
            outcome.append(error)

    thread = threading.Thread(target=slow)
    thread.start()
    while not running.calls()["in_flight"]:
        time.sleep(0.02)
    started = time.monotonic()
    assert running.stop() == 0
    assert time.monotonic() - started < 20
    thread.join(20)
    assert len(outcome) == 1


def test_flag_that_makes_no_sense_ends_with_status_2() -> None:
    command = [sys.executable, "-m", "scripts.simulator", "--fault-rate", "505=0.1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 2
    assert "simulator:" in done.stderr


def test_malformed_request_is_answered_as_simulated_too(sim: SimulatorProcess) -> None:
    with socket.create_connection(("127.0.0.1", int(sim.url.rpartition(":")[2])), timeout=5) as connection:
        connection.sendall(b"this is not http\r\n\r\n")
        answer = connection.recv(4096)
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"x-plantain-simulated: 1" in answer


def test_it_is_a_reading_of_its_own() -> None:
    """Nothing of the code under test is used here: a mistake there must not be repeated and hidden."""
    for path in (ROOT / "scripts" / "simulator").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.split(".")[0] in ("shared", "api", "worker")], path


def test_remembered_jobs_are_bounded() -> None:
    board = CallBoard(max_jobs=3)
    for number in range(5):
        call = board.begin("gemini", f"job{number}-1")
        call.bill()
        call.finish()
    assert [*board.snapshot()["by_job"]] == ["job2", "job3", "job4"]
    assert (board.total, board.forgotten_jobs) == (5, 2)


def test_latency_has_the_median_and_the_tail_that_it_should() -> None:
    rng = random.Random(5)
    latency = MODELS["gemini-3-pro-image"].latency_of("2K")
    drawn = sorted(draw(latency, rng) for _ in range(20_000))
    assert abs(drawn[10_000] / latency.p50 - 1) < 0.02
    assert abs(drawn[19_000] / latency.p95 - 1) < 0.03
