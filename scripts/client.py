"""Jobs of the scripts: submitted, followed in a poll of their own, and their results, on the client that everybody uses."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

from shared.client import FINAL, Plantain, PlantainError, Retries

__all__ = ["FINAL", "Client", "Job", "JobError", "Watched"]

Job = dict[str, Any]
T = TypeVar("T")


class JobError(Exception):
    """A job did not succeed, or the API did not answer as it should; the text says why."""


@dataclass
class Watched:
    """A submitted job, what was last heard of it, and the states it was seen in."""

    job: Job
    states: list[str]
    submitted: float = field(default_factory=time.monotonic)
    #: Seconds from submit to the final state, once that is reached.
    took: float | None = None

    @property
    def done(self) -> bool:
        return self.job["state"] in FINAL

    @property
    def elapsed(self) -> float:
        return self.took if self.took is not None else time.monotonic() - self.submitted


class Client:
    """Speaks to one API with one key."""

    def __init__(self, api_url: str, api_key: str) -> None:
        self._plantain = Plantain(api_url, api_key, retries=Retries(tries=4, patience=30))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._plantain.close()

    def submit(self, kind: str, model: str, **job_input: Any) -> Watched:
        """Submit a job; it is kept from here on, whatever happens."""
        job = _told(lambda: self._plantain.submit(kind, job_input, model=model))
        return Watched(dict(job.raw), states=[job.state])

    def follow(self, jobs: list[Watched], show: Callable[[], None], timeout: float) -> None:
        """Poll until all are in a final state; calls `show` after each round."""
        deadline = time.monotonic() + timeout
        while not all(watched.done for watched in jobs):
            for watched in jobs:
                self._poll(watched)
            show()
            if time.monotonic() > deadline:
                raise JobError(f"the jobs were not done within {timeout:.0f} s")
            time.sleep(0.1)

    def result(self, watched: Watched) -> dict[str, Any]:
        """The job's result; raises `JobError` when there is none."""
        job = watched.job
        if job["state"] != "succeeded":
            error = job.get("error") or {}
            reason = error.get("message") or error.get("code") or "no reason given"
            raise JobError(f"the {job['kind']} job {job['state']}: {reason}")
        result: dict[str, Any] = _told(lambda: self._plantain.result(job["id"])).raw["result"]
        return result

    def workers(self, watched: Watched) -> list[str]:
        """The worker of each attempt."""
        job = _told(lambda: self._plantain.get(watched.job["id"], attempts=True))
        return [attempt.worker for attempt in job.attempts]

    def download(self, url: str) -> bytes:
        """The bytes of an artifact."""
        with tempfile.TemporaryDirectory(prefix="plantain-") as folder:
            artifact_id = url.rpartition("/")[2]
            return _told(lambda: self._plantain.download(artifact_id, Path(folder) / "picture")).read_bytes()

    def _poll(self, watched: Watched) -> None:
        if not watched.done:
            watched.job = dict(_told(lambda: self._plantain.get(watched.job["id"])).raw)
        state = watched.job["state"]
        if state in FINAL and watched.took is None:
            watched.took = watched.elapsed
        if watched.states[-1] != state:
            watched.states.append(state)


def _told(ask: Callable[[], T]) -> T:
    try:
        return ask()
    except PlantainError as error:
        raise JobError(str(error)) from error
