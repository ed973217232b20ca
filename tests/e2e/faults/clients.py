"""Clients of a stack: they submit, poll in the background, and remember all that they were told."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from random import Random
from secrets import token_hex
from typing import Any

import httpx

FINAL = frozenset({"succeeded", "failed", "cancelled", "expired"})
_POLL_SECONDS = 0.15
#: Longer than any promise about an answer that a test checks.
_TIMEOUT = 20.0


@dataclass
class Told:
    """What clients know of one job: its 202, and each (version, state) in the order in which they saw them."""

    id: str
    accepted: float
    seen: list[tuple[int, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Answer:
    """One request: its status, or 0 and the error's name when there was no answer; when it began, how long it took."""

    method: str
    path: str
    status: int
    error: str
    began: float
    seconds: float
    headers: httpx.Headers


class Clients:
    """One project's clients on one API; usable from several threads."""

    def __init__(self, api_url: str, api_key: str, random: Random) -> None:
        self._http = httpx.Client(
            base_url=api_url,
            headers={"Authorization": f"Bearer {api_key}"},
            timeout=_TIMEOUT,
            trust_env=False,
            limits=httpx.Limits(max_connections=40, keepalive_expiry=2),
        )
        self._random = random
        self._pool = ThreadPoolExecutor(8, thread_name_prefix="client")
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._serial = itertools.count(1)
        self._watcher = threading.Thread(target=self._watch, name="watcher", daemon=True)
        #: What was accepted: by job.
        self.told: dict[str, Told] = {}
        #: Every request, the watcher's included.
        self.answers: list[Answer] = []
        #: Things seen that contradict what was told before.
        self.contradictions: list[str] = []

    def start(self) -> None:
        self._watcher.start()

    def close(self) -> None:
        self._stopped.set()
        if self._watcher.is_alive():
            self._watcher.join(timeout=_TIMEOUT + 5)
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._http.close()

    def submit(self, count: int = 1, **job: Any) -> list[str]:
        """Submits at once and waits for the answers; the ids of what was accepted. See ``body``."""
        work = [self._pool.submit(self._submit_one, job, {}) for _ in range(count)]
        return [job_id for job_id in (each.result() for each in work) if job_id is not None]

    def submit_with(self, headers: dict[str, str], *, number: int, **job: Any) -> str | None:
        """Submits one job with further headers; None where it was not accepted (the answer is in ``answers``).

        Args:
            number: as for ``body``; with the same one the body is the same.
        """
        return self._submit_one(job, headers, number)

    def pour(self, count: int, *, over: float, **job: Any) -> Future[list[str]]:
        """Submits in the background, spread at random over so many seconds; its result is the ids accepted."""
        moments = sorted(self._random.uniform(0, over) for _ in range(count))

        def run() -> list[str]:
            began = time.monotonic()
            work: list[Future[str | None]] = []
            for moment in moments:
                if self._stopped.wait(max(0.0, began + moment - time.monotonic())):
                    break
                work.append(self._pool.submit(self._submit_one, job, {}))
            return [job_id for job_id in (each.result() for each in work) if job_id is not None]

        return ThreadPoolExecutor(1).submit(run)

    def cancel(self, job_id: str) -> dict[str, Any] | None:
        """The receipt; None where the API gave none."""
        answer: dict[str, Any] | None = self._json(self.request("POST", f"/api/v1/jobs/{job_id}/cancel"))
        if answer is not None:
            self._see(answer["job"])
        return answer

    def get(self, job_id: str) -> dict[str, Any] | None:
        view: dict[str, Any] | None = self._json(self.request("GET", f"/api/v1/jobs/{job_id}"))
        if view is not None:
            self._see(view)
        return view

    def request(self, method: str, path: str, **more: Any) -> httpx.Response | None:
        """Any request; it is noted in ``answers``. None where no answer came."""
        began = time.monotonic()
        try:
            response = self._http.request(method, path, **more)
        except httpx.HTTPError as error:
            self._note(method, path, 0, type(error).__name__, began, httpx.Headers())
            return None
        self._note(method, path, response.status_code, "", began, response.headers)
        return response

    def asked(self, method: str = "POST", path: str = "/api/v1/jobs") -> list[Answer]:
        """The answers to requests of this form."""
        with self._lock:
            return [each for each in self.answers if each.method == method and each.path == path]

    def _submit_one(
        self, job: dict[str, Any], headers: dict[str, str], number: int | None = None
    ) -> str | None:
        if number is None:
            number = next(self._serial)
        view = self._json(
            self.request("POST", "/api/v1/jobs", json=body(number, **job), headers=headers), 202
        )
        if view is None:
            return None
        with self._lock:
            self.told.setdefault(view["id"], Told(view["id"], time.time()))
        self._see(view)
        return str(view["id"])

    def _watch(self) -> None:
        """Looks at all jobs page by page, and at a few of them one by one, again and again."""
        while not self._stopped.wait(_POLL_SECONDS):
            for view in self._pages():
                self._see(view)
            with self._lock:
                ids = list(self.told)
            for job_id in self._random.sample(ids, min(3, len(ids))):
                self.get(job_id)

    def _pages(self) -> Iterable[dict[str, Any]]:
        cursor: str | None = None
        while not self._stopped.is_set():
            query: dict[str, Any] = {"limit": 200} | ({"cursor": cursor} if cursor else {})
            page = self._json(self.request("GET", "/api/v1/jobs", params=query))
            if page is None:
                return
            yield from page["items"]
            cursor = page["next_cursor"]
            if cursor is None:
                return

    def _see(self, view: dict[str, Any]) -> None:
        with self._lock:
            told = self.told.get(view["id"])
            if told is None:
                return  # seen in the list before its 202 had arrived here
            now = (int(view["version"]), str(view["state"]))
            if not told.seen or told.seen[-1] != now:
                told.seen.append(now)

    def _note(
        self, method: str, path: str, status: int, error: str, began: float, headers: httpx.Headers
    ) -> None:
        answer = Answer(method, path, status, error, began, time.monotonic() - began, headers)
        with self._lock:
            self.answers.append(answer)

    @staticmethod
    def _json(response: httpx.Response | None, wanted: int = 200) -> dict[str, Any] | None:
        if response is None or response.status_code != wanted:
            return None
        parsed: dict[str, Any] = response.json()
        return parsed


def body(
    number: int,
    *,
    kind: str = "text",
    seconds: float = 0.1,
    sim: str = "",
    padding: int = 0,
    **fields: Any,
) -> dict[str, Any]:
    """A submit.

    Args:
        kind: ``text`` or ``image``.
        seconds: how long the provider's call takes.
        sim: a directive for the simulator, such as ``fault=500;times=1``.
        padding: bytes by which the prompt is longer; they cannot be compressed.
        fields: of the submit, such as ``max_attempts``.
    """
    prompt = f"[[sim:latency={seconds}]]{f'[[sim:{sim}]]' if sim else ''} Number {number}."
    prompt += token_hex(padding // 2)
    if kind == "image":
        kind, model, more = "image.generate", "nano-banana", {"aspect_ratio": "1:1"}
    else:
        kind, model, more = "text.generate", "gemini-flash", {}
    return {"kind": kind, "model": model, "input": {"prompt": prompt, **more}, **fields}


def slowest(answers: Iterable[Answer], that: Callable[[Answer], bool] = lambda _: True) -> float:
    """Seconds of the slowest; 0 where there are none."""
    return max((each.seconds for each in answers if that(each)), default=0.0)
