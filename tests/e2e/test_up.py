"""scripts/up from outside: it runs jobs, survives crashes of its parts, and leaves nothing behind."""

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from scripts.client import Client, Watched
from scripts.embedded import EmbeddedPostgres, EmbeddedValkey
from tests.integration.scripts.processes import gone, wait_until

from .stack import Up, command, running_up, variables

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="plantain-e2e-", ignore_cleanup_errors=True) as path:
        yield Path(path)


@pytest.fixture(scope="module")
def up(folder: Path) -> Iterator[Up]:
    with running_up(folder / "shared data", "--workers", 2, more={"LOG_FORMAT": "json"}) as running:
        yield running


def run_job(client: Client) -> Watched:
    job = client.submit("text.generate", "gemini-flash", prompt="Say something.")
    client.follow([job], lambda: None, timeout=60)
    assert job.job["state"] == "succeeded", job.job
    return job


def test_runs_a_job_from_submit_to_result(up: Up) -> None:
    with up.client() as client:
        job = run_job(client)
        assert job.job["provider"] == "simulator"
        assert client.result(job)["text"]


def test_names_everything_in_one_line_of_json(up: Up) -> None:
    assert set(up.facts) >= {
        *(
            "api_url",
            "api_key",
            "database_url",
            "redis_url",
            "simulator_url",
            "flower_url",
            "data_dir",
            "pids",
        )
    }
    assert set(up.pids) == {
        *("up", "postgres", "valkey", "simulator", "api", "worker-1", "worker-2", "beat", "flower")
    }
    assert not any(gone(pid) for pid in up.pids.values())


def test_flower_asks_for_its_password(up: Up) -> None:
    url = up.facts["flower_url"]
    assert httpx.get(url, trust_env=False).status_code == 401
    login = (up.facts["flower_user"], up.facts["flower_password"])
    assert httpx.get(url, auth=login, follow_redirects=True, trust_env=False).status_code == 200


def test_flower_changes_nothing(up: Up) -> None:
    login = (up.facts["flower_user"], up.facts["flower_password"])
    url = up.facts["flower_url"]
    with httpx.Client(base_url=url, auth=login, trust_env=False) as flower:
        wait_until(lambda: len(flower.get("/api/workers").json()) == 2, 30)
        (name, _) = flower.get("/api/workers").json()
        assert flower.post(f"/api/worker/shutdown/{name}").status_code == 403


def test_no_secret_in_a_command_line_and_nothing_readable_by_others(up: Up) -> None:
    listed = subprocess.run(["ps", "-ewwo", "args"], capture_output=True, text=True, check=True).stdout
    data = Path(up.facts["data_dir"])
    secrets = [path.read_text().strip() for path in (data / "secrets").iterdir()]
    assert len(secrets) == 4
    assert [secret for secret in secrets if secret in listed] == []
    assert data.stat().st_mode & 0o777 == 0o700


def test_second_one_on_the_same_data_is_refused(up: Up) -> None:
    second = subprocess.run(
        command("up", "--data-dir", up.facts["data_dir"]),
        env=variables(),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert second.returncode == 1
    assert f"pid {up.pids['up']}, {up.facts['api_url']}" in second.stdout


def test_port_in_use_is_refused_by_name(up: Up, tmp_path: Path) -> None:
    port = httpx.URL(up.facts["api_url"]).port
    second = subprocess.run(
        command("up", "--data-dir", tmp_path, "--port", port),
        env=variables(),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert second.returncode == 1
    assert f"port {port} is in use" in second.stdout


@pytest.mark.parametrize("name", ["api", "postgres", "valkey", "worker-1", "worker-2"])
def test_part_that_is_killed_comes_back(up: Up, name: str) -> None:
    os.kill(up.pids[name], signal.SIGKILL)
    wait_until(lambda: f"{name} runs again" in up.said(), 20)
    wait_until(lambda: is_ready(up), 30)
    with up.client() as client:
        run_job(client)


def test_ctrl_c_stops_everything(up: Up) -> None:
    assert up.stop() == 0
    up.await_end()
    assert "stopped; the data is kept" in up.said()


@pytest.mark.parametrize("name", ["api", "worker-1", "worker-2", "beat", "flower", "migrations"])
def test_every_line_of_what_was_logged_meanwhile_is_json(folder: Path, name: str) -> None:
    """Starts, jobs, crashes of every server, a stop; Flower and the migrations have nothing to say."""
    lines = (folder / "shared data" / "logs" / f"{name}.log").read_text(encoding="utf-8").splitlines()
    levels = [json.loads(line)["level"] for line in lines]
    assert set(levels) <= {"info", "warning", "error"}
    assert levels or name in {"flower", "migrations"}


def test_nothing_outlives_a_kill_and_the_job_is_still_there(folder: Path) -> None:
    with running_up(folder / "killed", "--no-flower") as first:
        with first.client() as client:
            job = run_job(client)
        first.process.kill()
        first.await_end()
    with running_up(folder / "killed", "--no-flower") as second:
        assert second.facts["api_key"] == first.facts["api_key"]
        with second.client() as client:
            assert client.result(job)["text"]
        assert second.stop() == 0


def test_two_started_at_once_run_beside_each_other(folder: Path) -> None:
    """Without --port: both want 8000, and one of them gets it at most."""
    arguments = ("--json", "--simulator", "--no-flower", "--data-dir")
    both = [
        subprocess.Popen(
            command("up", *arguments, folder / name), env=variables(), stdout=subprocess.PIPE, text=True
        )
        for name in ("left", "right")
    ]
    try:
        lines = [process.stdout.readline() for process in both if process.stdout]
        assert len({json.loads(line)["api_url"] for line in lines}) == 2
    finally:
        for process in both:
            process.send_signal(signal.SIGINT)
        assert [process.wait(60) for process in both] == [0, 0]
        for process in both:
            process.communicate()


def test_external_servers_are_used(folder: Path) -> None:
    with EmbeddedPostgres(folder / "elsewhere") as postgres, EmbeddedValkey(folder / "elsewhere") as valkey:
        addresses = {"DATABASE_URL": postgres.url, "REDIS_URL": valkey.url}
        with running_up(folder / "external", "--no-flower", "--external", more=addresses) as up:
            assert up.facts["database_url"] == postgres.url
            assert not {"postgres", "valkey"} & set(up.pids)
            with up.client() as client:
                run_job(client)
            assert up.stop() == 0


def is_ready(up: Up) -> bool:
    try:
        return httpx.get(f"{up.facts['api_url']}/api/health/ready", trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False
