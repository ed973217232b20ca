"""`docker compose` on this project's docker-compose.yml, with nothing taken from the user's own settings."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scripts.process import ROOT

FILE = ROOT / "docker-compose.yml"
#: What a variable of compose looks like in the file: passed on by name, or part of a value.
VARIABLE = re.compile(r"^ +([A-Z][A-Z_]+):$|\$\{([A-Z][A-Z_]+)", re.MULTILINE)
MISSING = """\
{problem}
Install Docker Engine 25 or newer with the Compose plugin (2.24 or newer), start it, and see that your user may use it:
`docker compose version` and `docker info` must both work."""


class ComposeError(Exception):
    """A docker command failed, or something about the containers is wrong; the text says what."""


class Compose:
    """One compose project. `variables` are those of docker-compose.yml; neither .env nor the shell adds any."""

    def __init__(self, project: str, variables: Mapping[str, str]) -> None:
        self.project = project
        inherited = {name: value for name, value in os.environ.items() if name not in _known()}
        self._environment = {**inherited, **variables}
        self._prefix = ["docker", "compose", "--project-name", project, "--project-directory", str(ROOT)]
        # Named, so that neither an override file nor .env is read.
        self._prefix += ["--file", str(FILE), "--env-file", os.devnull, "--progress", "quiet"]

    def run(self, *arguments: str, timeout: float = 600) -> str:
        """Stdout of `docker compose ARGUMENTS`; raises `ComposeError` with the end of stderr."""
        return _run([*self._prefix, *arguments], self._environment, timeout)

    def execute(self, service: str, *command: str) -> str:
        """Stdout of a command in a running container."""
        return self.run("exec", "--no-TTY", service, *command, timeout=60)

    def containers(self) -> list[dict[str, Any]]:
        """What `docker inspect` says about each container of the project, ended ones too."""
        ids = self.run("ps", "--all", "--quiet").split()
        found: list[dict[str, Any]] = json.loads(_run(["docker", "inspect", *ids], None, 60)) if ids else []
        return found

    def memory(self) -> dict[str, str]:
        """What each running container holds in memory now, in docker's words, by container name."""
        ids = self.run("ps", "--quiet").split()
        lines = _run(["docker", "stats", "--no-stream", "--format", "json", *ids], None, 60).splitlines()
        rows = [json.loads(line) for line in lines]
        return {row["Name"]: row["MemUsage"].split(" / ")[0] for row in rows}

    def logs(self, container: dict[str, Any], lines: int) -> str:
        """The last lines that a container wrote."""
        done = subprocess.run(
            ["docker", "logs", "--tail", str(lines), container["Id"]],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
        return done.stdout.rstrip()

    def down(self) -> None:
        """Take away containers, networks and volumes, without waiting for anybody."""
        self.run("down", "--volumes", "--remove-orphans", "--timeout", "2")


def require_docker() -> str:
    """The versions of engine and compose; raises `ComposeError` with what to do where one is missing."""
    if shutil.which("docker") is None:
        raise ComposeError(MISSING.format(problem="docker was not found on this machine."))
    try:
        compose = _run(["docker", "compose", "version", "--short"], None, 30).strip()
    except ComposeError:
        raise ComposeError(MISSING.format(problem="docker has no compose plugin.")) from None
    try:
        engine = _run(["docker", "version", "--format", "{{.Server.Version}}"], None, 30).strip()
    except ComposeError as error:
        raise ComposeError(MISSING.format(problem=f"The Docker engine does not answer: {error}")) from None
    return f"engine {engine}, compose {compose}"


def service_of(container: dict[str, Any]) -> str:
    """The service that a container belongs to."""
    return str(container["Config"]["Labels"]["com.docker.compose.service"])


def is_well(container: dict[str, Any]) -> bool:
    """Healthy and running; a container without a health check has ended well, or still runs."""
    state = container["State"]
    if "Health" in state:
        return bool(state["Running"] and state["Health"]["Status"] == "healthy")
    return bool(state["Running"] or state["ExitCode"] == 0)


def _known() -> set[str]:
    names = {one or other for one, other in VARIABLE.findall(Path(FILE).read_text(encoding="utf-8"))}
    return names | {"COMPOSE_FILE", "COMPOSE_PROFILES", "COMPOSE_PROJECT_NAME", "COMPOSE_ENV_FILES"}


def _run(command: list[str], environment: Mapping[str, str] | None, timeout: float) -> str:
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ComposeError(f"{' '.join(command[:2])} did not end within {timeout:.0f} s") from None
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-15:]
        raise ComposeError("\n".join(said) or f"{' '.join(command)} ended with {done.returncode}")
    return done.stdout
