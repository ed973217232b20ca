"""scripts/plantain as a shell sees it: what goes to stdout, what to stderr, and the exit code."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from scripts.commands.parser import parse
from scripts.process import ROOT
from tests.e2e.stack import command

pytestmark = pytest.mark.timeout(120)
Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture
def run(surroundings: dict[str, str], tmp_path: Path) -> Run:
    def run(
        *arguments: object, stdin: bytes = b"", code: int = 0, **more: str
    ) -> subprocess.CompletedProcess[bytes]:
        done = subprocess.run(
            command("plantain", *arguments),
            input=stdin,
            capture_output=True,
            env={**surroundings, **more},
            cwd=tmp_path,
            timeout=60,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert surroundings["PLANTAIN_API_KEY"].encode() not in done.stdout + done.stderr
        return done

    return run


def test_ids_go_through_pipes(run: Run) -> None:
    submitted = run("submit", "[[sim:latency=60]] to be cancelled", "--tag", "piped")
    job_id = submitted.stdout.decode().strip()
    assert submitted.stderr == b""
    assert run("list", "--tag", "piped", "--ids").stdout.decode() == f"{job_id}\n"
    no_batch = "01988000-0000-7000-8000-000000000000"
    assert run("list", "--tag", "piped", "--batch", no_batch).stdout == b""
    assert run("cancel", job_id).stdout.decode().startswith(f"{job_id}  cancel")
    watched = run("watch", job_id, code=1)
    assert watched.stdout == b""
    assert "cancelled" in watched.stderr.decode()
    shown = run("get", job_id, "--attempts").stdout.decode()
    assert re.search(r"^state +cancelled", shown, re.MULTILINE)
    assert re.search(r"^tags +piped", shown, re.MULTILINE)
    assert json.loads(run("list", "--json", "--tag", "piped").stdout)["id"] == job_id


def test_a_prompt_on_stdin_becomes_its_answer_on_stdout(run: Run) -> None:
    done = run("submit", "--wait", stdin="What is a «plantain»?".encode())
    assert "You wrote: What is a «plantain»?" in done.stdout.decode()
    assert "succeeded" in done.stderr.decode()
    assert "\033" not in done.stderr.decode(), "colours are for terminals"
    assert run("submit", "-wq", "-", stdin=b"quietly").stderr == b""


def test_a_text_is_printed_as_it_is_made(run: Run) -> None:
    streamed = run("submit", "--stream", "What is a plantain?").stdout.decode()
    job_id = run("list", "--ids", "-n", "1").stdout.decode().strip()
    assert streamed == run("download", job_id).stdout.decode()
    assert "You wrote: What is a plantain?" in streamed
    assert b"--timeout" in run("submit", "--stream", "--timeout", "5", "x", code=2).stderr
    failed = run("submit", "--stream", "[[sim:fault=400]]", code=1)
    assert failed.stdout == b""
    assert "invalid_request" in failed.stderr.decode()


def test_pictures_become_files_or_bytes(run: Run, tmp_path: Path) -> None:
    done = run(
        "submit", "--image", "-w", "-i", "aspect_ratio=16:9", "-o", tmp_path, "A plantain in sunglasses"
    )
    path = Path(done.stdout.decode().strip())
    assert (path.parent, path.suffix) == (tmp_path, ".png")
    with Image.open(path) as picture:
        picture.load()
        assert picture.width / picture.height == pytest.approx(16 / 9, rel=0.02)
    assert run("download", path.stem, "-o", "-").stdout == path.read_bytes()
    run("download", path.stem, "-o", "named.png")
    assert (tmp_path / "named.png").read_bytes() == path.read_bytes()
    edited = run("submit", "--image", "-wq", "--picture", "named.png", "-o", "-", "Make it green").stdout
    assert Image.open(io.BytesIO(edited)).format == "PNG"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted([path.name, "named.png"])


def test_json_is_for_programs(run: Run) -> None:
    whole: dict[str, Any] = json.loads(
        run("submit", "-w", "--json", "-i", "max_output_tokens=50", "A text").stdout
    )
    assert whole["kind"] == "text.generate"
    assert whole["result"]["text"]
    replayed = json.loads(run("replay", whole["job_id"], "--json", "-i", "prompt=Another text").stdout)
    assert replayed["replay_of"] == whole["job_id"]
    states = [
        json.loads(line)["state"] for line in run("watch", "--json", replayed["id"]).stdout.splitlines()
    ]
    assert states[-1] == "succeeded"


def test_the_exit_code_says_whose_turn_it_is(run: Run, tmp_path: Path) -> None:
    failed = run("submit", "-w", "[[sim:fault=400]]", code=1).stderr.decode()
    assert "failed invalid_request" in failed
    assert "PLANTAIN_API_KEY" in run("list", code=2, PLANTAIN_API_KEY="").stderr.decode()
    assert "UTF-8" in run("submit", stdin=b"\xff\xfe", code=2).stderr.decode()
    refused = run("submit", "--image", "-i", "aspect_ratio=17:9", "x", code=3).stderr.decode()
    assert "/input/aspect_ratio" in refused
    assert "16:9" in refused
    late = run("submit", "-w", "--timeout", "0.5", "[[sim:latency=60]] slow", code=5).stderr.decode()
    (job_id,) = re.findall(r"plantain cancel (\S+)", late)
    run("cancel", job_id)
    (tmp_path / "key").write_text("pln_unknown_key\n")
    assert "401" in run("list", "--key-file", "key", code=3).stderr.decode()


def test_a_server_that_is_away_is_said_to_be(run: Run) -> None:
    done = run("submit", "once", code=4, PLANTAIN_URL="http://127.0.0.1:9").stderr.decode()
    assert "trying again in" in done
    assert re.search(r"--idempotency-key [0-9a-f-]{36}", done), "how to go on without making a second job"


def test_nobody_reading_on_is_no_error(surroundings: dict[str, str], run: Run) -> None:
    run("submit", "-q", "one to list")
    listing = subprocess.Popen(
        command("plantain", "list", "--all"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=surroundings
    )
    assert listing.stdout
    assert listing.stderr
    listing.stdout.close()
    assert listing.stderr.read() == b""
    listing.stderr.close()
    assert listing.wait(30) == 141


@pytest.mark.parametrize("colours", [True, False])
def test_ctrl_c_on_a_terminal_says_that_the_job_goes_on(
    surroundings: dict[str, str], run: Run, colours: bool
) -> None:
    surroundings = {
        **surroundings,
        "TERM": "xterm",
        "LANG": "C.UTF-8",
        **({} if colours else {"NO_COLOR": "1"}),
    }
    arguments = command("plantain", "submit", "-w", "[[sim:latency=60]] slow")
    pid, terminal = pty.fork()
    if pid == 0:
        # Whoever runs the tests in the background may have had it ignored, which a new program would inherit.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.execve(arguments[0], arguments, surroundings)
    seen, pressed, deadline = b"", False, time.monotonic() + 30
    while time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                data = os.read(terminal, 4096)
            except OSError:
                break
            if not data:
                break
            seen += data
        if not pressed and b"running" in seen:
            os.write(terminal, b"\x03")
            pressed = True
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 130
    os.close(terminal)
    text = seen.decode()
    assert ("\033[36m" in text) == colours
    assert "\r\033[K" in text, "a line that moves"
    (job_id,) = re.findall(r"plantain watch (\S+)", text)
    assert "The job goes on" in text
    assert json.loads(run("get", "--json", job_id).stdout)["state"] == "running"
    run("cancel", job_id)


def test_the_key_has_no_place_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--key", "--api-key", "--token"):
        with pytest.raises(SystemExit):
            parse(["list", option, "pln_x"], "plantain")
    assert capsys.readouterr().out == ""


def test_the_console_script_is_the_same_program() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    module, _, name = project["project"]["scripts"]["plantain"].partition(":")
    assert callable(getattr(__import__(module, fromlist=[name]), name))
    assert f"{module.partition('.')[0]}*" in project["tool"]["setuptools"]["packages"]["find"]["include"]
