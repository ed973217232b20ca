"""A small client of Plantain's API, as a program of yours might have one."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

import httpx

#: States that a job does not leave.
FINAL = frozenset({"succeeded", "failed", "cancelled", "expired"})
Job = dict[str, Any]


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
        headers = {"Authorization": f"Bearer {api_key}"}
        # trust_env: a proxy in the environment must not get to see what stays on this machine.
        self._http = httpx.Client(base_url=api_url, headers=headers, timeout=30, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def submit(self, kind: str, model: str, **job_input: Any) -> Watched:
        """Submit a job; it is kept from here on, whatever happens."""
        body = {"kind": kind, "model": model, "input": job_input}
        job = self._json("POST", "/api/v1/jobs", json=body)
        return Watched(job, states=[job["state"]])

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
            reason = error.get("message") or error.get("detail") or error.get("code") or "no reason given"
            raise JobError(f"the {job['kind']} job {job['state']}: {reason}")
        result: dict[str, Any] = self._json("GET", f"/api/v1/jobs/{job['id']}/result")["result"]
        return result

    def download(self, url: str) -> bytes:
        """The bytes of an artifact."""
        return self._answer("GET", url).content

    def _poll(self, watched: Watched) -> None:
        if not watched.done:
            watched.job = self._json("GET", f"/api/v1/jobs/{watched.job['id']}")
        state = watched.job["state"]
        if state in FINAL and watched.took is None:
            watched.took = watched.elapsed
        if watched.states[-1] != state:
            watched.states.append(state)

    def _json(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self._answer(method, path, **more).json()
        return answer

    def _answer(self, method: str, path: str, **more: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, **more)
        except httpx.HTTPError as error:
            raise JobError(f"{method} {path} got no answer: {error}") from error
        if not response.is_success:
            raise JobError(f"{method} {path} was answered with {response.status_code}: {response.text[:500]}")
        return response
