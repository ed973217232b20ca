"""scripts/compose-smoke: build the image, run the compose file with real jobs on the simulator, and take it down again."""

import argparse
import json
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from scripts import ports
from scripts.cli import options
from scripts.client import Client, JobError, Watched
from scripts.compose import Compose, ComposeError, is_well, require_docker, service_of
from scripts.terminal import Terminal, seconds

PROJECT = "plantain-smoke"
TIMEOUT = 180.0
#: Few slots a worker, so that one worker cannot take all jobs before the others look.
CONCURRENCY = 8
#: The longest call allowed; with 10 s more it is the workers' grace period in docker-compose.yml.
JOB_TIMEOUT = 60
LONG_RUNNING = {"postgres", "redis", "api", "worker", "beat", "flower", "simulator"}
FLOWER_USER = "plantain"
SECRETS = {
    "postgres": "/run/plantain/postgres/password",
    "redis": "/run/plantain/redis/password",
    "flower": "/run/plantain/app/flower_password",
}


def main(arguments: list[str]) -> int:
    parsed = _parser().parse_args(arguments)
    terminal = Terminal()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        terminal.say(require_docker())
        Smoke(terminal, parsed).run()
    except (ComposeError, JobError, httpx.HTTPError) as error:
        terminal.bad("compose-smoke failed", str(error))
        return 1
    return 0


class Smoke:
    """One run; each method is a step that raises `ComposeError` or `JobError`."""

    def __init__(self, terminal: Terminal, parsed: argparse.Namespace) -> None:
        self.terminal = terminal
        self.parsed = parsed
        self.api_port, self.flower_port = _two_ports()
        self.compose = Compose(
            PROJECT,
            {
                "API_PORT": str(self.api_port),
                "FLOWER_PORT": str(self.flower_port),
                "WORKER_REPLICAS": str(parsed.workers),
                "WORKER_CONCURRENCY": str(CONCURRENCY),
                "JOB_TIMEOUT": str(JOB_TIMEOUT),
                "SIMULATOR_LATENCY_SCALE": str(parsed.provider_latency_scale),
            },
        )

    def run(self) -> None:
        """All steps; whatever happens, everything is taken down at the end."""
        begun = time.monotonic()
        with self._step("removed what an earlier run left"):
            self.compose.down()
        try:
            self._build_and_start()
            self._use()
            self._look_at_containers()
            self._look_at_flower()
            self._stop_workers()
        except BaseException:
            self._show_logs()
            raise
        finally:
            if not self.parsed.keep:
                with self._step("took everything down"):
                    self.compose.down()
        self.terminal.good("compose-smoke", seconds(time.monotonic() - begun))

    def _build_and_start(self) -> None:
        if self.parsed.build:
            with self._step("built the image"):
                self.compose.run("build", "--quiet", timeout=1800)
        with self._step(f"started, {self.parsed.workers} workers"):
            self.compose.run("up", "--detach", "--wait", "--wait-timeout", str(int(TIMEOUT)), "--no-build")
        self._report_memory("memory at rest")

    def _use(self) -> None:
        """Submit jobs from outside, and check what became of each."""
        key = self.compose.execute(
            "api", "python", "-m", "shared.access", "create", "--name", "smoke"
        ).strip()
        texts, images = self.parsed.texts, self.parsed.images
        with (
            Client(f"http://{ports.HOST}:{self.api_port}", key) as client,
            self._step(f"{texts} text jobs and {images} image jobs succeeded"),
        ):
            jobs = [client.submit("text.generate", "gemini-flash", prompt=f"Say {n}.") for n in range(texts)]
            jobs += [
                client.submit("image.generate", "nano-banana", prompt=f"A plantain, {n}")
                for n in range(images)
            ]
            client.follow(jobs, lambda: self._show_progress(jobs), TIMEOUT)
            self._check_jobs(client, jobs)
        self._check_calls(len(jobs))
        self._report_memory("memory after the jobs")

    def _check_jobs(self, client: Client, jobs: list[Watched]) -> None:
        workers: Counter[str] = Counter()
        for watched in jobs:
            result = client.result(watched)
            if watched.job["provider"] != "simulator":
                raise ComposeError(f"job {watched.job['id']} was answered by {watched.job['provider']}")
            workers.update(client.workers(watched))
            if "images" in result and watched is jobs[-1]:
                _check_picture(result["images"][0], client)
        if len(workers) != self.parsed.workers:
            raise ComposeError(f"{self.parsed.workers} workers should have taken part, but: {dict(workers)}")
        shares = " + ".join(str(count) for count in sorted(workers.values()))
        self.terminal.good("every worker took part", f"{shares} attempts")

    def _check_calls(self, jobs: int) -> None:
        script = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8900/sim/calls?by_job=0').read().decode())"
        counted = json.loads(self.compose.execute("simulator", "python", "-c", script))
        if counted["total"] != jobs or counted["jobs"] != jobs:
            raise ComposeError(f"{jobs} jobs should make as many calls; the simulator counted {counted}")
        self.terminal.good("the simulator was called once for each job")

    def _look_at_containers(self) -> None:
        containers = self.compose.containers()
        missing = LONG_RUNNING - {service_of(container) for container in containers}
        if missing:
            raise ComposeError(f"no container for: {', '.join(sorted(missing))}")
        for container in containers:
            name = container["Name"].lstrip("/")
            if not is_well(container):
                raise ComposeError(f"{name} is not well: {container['State']}")
            problems = _exposures(container)
            if problems:
                raise ComposeError(f"{name} {', '.join(problems)}")
        for service in sorted(LONG_RUNNING):
            if self.compose.execute(service, "id", "-u").strip() == "0":
                raise ComposeError(f"{service} runs as root")
        told = json.dumps(containers)
        for service, path in SECRETS.items():
            if self.compose.execute(service, "cat", path).strip() in told:
                raise ComposeError(f"docker inspect shows the password in {path}")
        self.terminal.good(
            "healthy, not root, read-only, no capabilities, ports on loopback, passwords unseen"
        )

    def _look_at_flower(self) -> None:
        url = f"http://{ports.HOST}:{self.flower_port}"
        password = self.compose.execute("flower", "cat", SECRETS["flower"]).strip()
        with httpx.Client(base_url=url, trust_env=False, timeout=10) as http:
            if http.get("/workers").status_code != 401:
                raise ComposeError("Flower lets people in without a password")
            http.auth = (FLOWER_USER, password)
            deadline = time.monotonic() + 20
            while len(online := _online(http)) != self.parsed.workers and time.monotonic() < deadline:
                time.sleep(0.5)
        if len(online) != self.parsed.workers:
            raise ComposeError(f"Flower should list {self.parsed.workers} workers, but lists {online}")
        self.terminal.good(f"Flower lists {len(online)} workers")

    def _stop_workers(self) -> None:
        begun = time.monotonic()
        self.compose.run("stop", "worker")
        took = time.monotonic() - begun
        codes = [c["State"]["ExitCode"] for c in self.compose.containers() if service_of(c) == "worker"]
        if any(codes) or took > JOB_TIMEOUT:
            raise ComposeError(f"the workers did not stop cleanly: exit codes {codes} after {seconds(took)}")
        self.terminal.good("the workers stopped cleanly", seconds(took))

    def _report_memory(self, title: str) -> None:
        rows = sorted(self.compose.memory().items())
        self.terminal.good(title, ", ".join(f"{n.removeprefix(PROJECT + '-')} {used}" for n, used in rows))

    def _show_progress(self, jobs: list[Watched]) -> None:
        states = Counter(watched.job["state"] for watched in jobs)
        self.terminal.status(", ".join(f"{count} {state}" for state, count in states.items()))

    def _show_logs(self) -> None:
        """What the containers that are not well wrote last; all of them where none stands out."""
        try:
            containers = self.compose.containers()
        except ComposeError as error:
            self.terminal.warn("no logs to show", str(error))
            return
        unwell = [container for container in containers if not is_well(container)]
        lines = 40 if unwell else 15
        for container in unwell or containers:
            self.terminal.say(f"\n--- {container['Name'].lstrip('/')}: {container['State']['Status']}")
            self.terminal.say(self.compose.logs(container, lines))
        self.terminal.say()

    @contextmanager
    def _step(self, title: str) -> Iterator[None]:
        begun = time.monotonic()
        self.terminal.status(title)
        yield
        self.terminal.good(title, seconds(time.monotonic() - begun))


def _exposures(container: dict[str, Any]) -> list[str]:
    """What a container may do that it should not."""
    host = container["HostConfig"]
    bindings = [b for found in (host["PortBindings"] or {}).values() for b in found or []]
    wrong = {
        "runs as root": container["Config"]["User"] in {"", "0", "root"},
        "can write to its root file system": not host["ReadonlyRootfs"],
        "has capabilities": host["CapDrop"] != ["ALL"] or bool(host["CapAdd"]),
        "may gain privileges": "no-new-privileges:true" not in (host["SecurityOpt"] or []),
        "has no memory limit": not host["Memory"],
        "publishes beyond this machine": any(b["HostIp"] != ports.HOST for b in bindings),
    }
    return [words for words, is_so in wrong.items() if is_so]


def _check_picture(image: dict[str, Any], client: Client) -> None:
    data = client.download(image["url"])
    if len(data) != image["byte_size"] or not data.startswith((b"\x89PNG", b"\xff\xd8\xff", b"RIFF")):
        raise ComposeError(f"artifact {image['artifact_id']} is not the picture that the result names")


def _online(http: httpx.Client) -> list[str]:
    rows = http.get("/workers", params={"json": 1}).raise_for_status().json()["data"]
    return [row["hostname"] for row in rows if row["status"]]


def _two_ports() -> tuple[int, int]:
    first = ports.free_port()
    while (second := ports.free_port()) == first:
        pass
    return first, second


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/compose-smoke",
        description="Build the image, start docker-compose.yml under a name and ports of its own, run jobs on the "
        "simulator, check them and the containers, and take everything down. No provider is called, whatever .env says.",
    )
    options.add_latency_scale(parser, default=0.25)
    parser.add_argument(
        "--workers", type=options.count, default=3, metavar="N", help="(default: %(default)s)"
    )
    parser.add_argument("--texts", type=int, default=60, metavar="N", help="text jobs (default: %(default)s)")
    parser.add_argument(
        "--images", type=int, default=20, metavar="N", help="image jobs (default: %(default)s)"
    )
    parser.add_argument("--no-build", dest="build", action="store_false", help="use the image as it is")
    parser.add_argument("--keep", action="store_true", help="leave everything running")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
