"""Clients of a soak: they submit a mix of jobs, call some off, poll, and remember what they were told."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from random import Random
from typing import Any

import httpx

from scripts.client import FINAL

_POLL_SECONDS = 0.25
_POLLED_AT_ONCE = 5
#: Jobs of the model whose provider says that it takes 20 calls a minute: fewer than that, or they would pile up.
_LITE_A_SECOND = 0.2
#: What a sound answer looks like; 503 says to come back, and is right while the database is away.
_SOUND = {200, 202, 304, 409, 503}
#: Longer than any of the API's promises.
_TIMEOUT = 20.0


@dataclass
class Told:
    """What clients know of one job; ``accepted`` is a monotonic time."""

    accepted: float
    seen: list[tuple[int, str]] = field(default_factory=list)

    @property
    def final(self) -> bool:
        return bool(self.seen) and self.seen[-1][1] in FINAL


class Load:
    """Submits at random moments, so many a second on average, until it is told to stop; polls until it is closed."""

    def __init__(self, api_url: str, api_key: str, random: Random, per_second: float) -> None:
        self._http = httpx.Client(
            base_url=api_url,
            headers={"Authorization": f"Bearer {api_key}"},
            timeout=_TIMEOUT,
            trust_env=False,
            limits=httpx.Limits(max_connections=40, keepalive_expiry=2),
        )
        self._random = random
        self._per_second = per_second
        self._pool = ThreadPoolExecutor(16, thread_name_prefix="client")
        self._lock = threading.Lock()
        self._serial = itertools.count(1)
        self._ended = threading.Event()
        self._closed = threading.Event()
        self._later: list[tuple[float, int, Callable[[], object]]] = []
        self._threads = [
            threading.Thread(target=self._submit_all, name="submitter", daemon=True),
            threading.Thread(target=self._poll_all, name="poller", daemon=True),
        ]
        self.told: dict[str, Told] = {}
        #: (method, status): how often. Status 0 is no answer at all.
        self.answers: Counter[tuple[str, int]] = Counter()
        self.slowest: dict[str, float] = {}
        #: What is no fault's work.
        self.problems: list[str] = []
        self.pictures_checked = 0

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """No further jobs and cancels; polling goes on."""
        self._ended.set()

    def close(self) -> None:
        self._ended.set()
        self._closed.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout=_TIMEOUT + 5)
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._http.close()

    def unseen(self) -> int:
        """Accepted jobs of which no client has seen the end."""
        with self._lock:
            return sum(not told.final for told in self.told.values())

    # ---- Submitting

    def _submit_all(self) -> None:
        due = time.monotonic()
        while not self._ended.is_set():
            due += self._random.expovariate(self._per_second)
            self._pool.submit(self._guarded, self._submit, self._body(next(self._serial)))
            while not self._ended.is_set() and time.monotonic() < due:
                self._do_what_is_due()
                self._ended.wait(min(0.05, max(0.0, due - time.monotonic())))

    def _do_what_is_due(self) -> None:
        while self._later and self._later[0][0] <= time.monotonic():
            with self._lock:
                _, _, work = heapq.heappop(self._later)
            self._pool.submit(self._guarded, work)

    def _submit(self, body: dict[str, Any]) -> None:
        view = self._json("POST", "/api/v1/jobs", json=body)
        if view is None:
            return
        with self._lock:
            self.told.setdefault(view["id"], Told(time.monotonic()))
        self._see(view)
        if self._random.random() < 0.06:
            when = time.monotonic() + self._random.uniform(0, 4)
            with self._lock:
                heapq.heappush(self._later, (when, next(self._serial), lambda: self._cancel(str(view["id"]))))

    def _cancel(self, job_id: str) -> None:
        receipt = self._json("POST", f"/api/v1/jobs/{job_id}/cancel")
        if receipt is not None:
            self._see(receipt["job"])

    def _body(self, number: int) -> dict[str, Any]:
        """Three quarters text; some scheduled, some that expire, some that must not be paid for twice."""
        draw = self._random.random
        kind, model, seconds, more = (
            "text.generate",
            "gemini-flash",
            self._random.lognormvariate(-0.4, 0.7),
            {},
        )
        if draw() < _LITE_A_SECOND / self._per_second:
            model = "gemini-flash-lite"
        if draw() < 0.25:
            kind, more = "image.generate", {"aspect_ratio": "1:1", "size": "1K"}
            model, seconds = "nano-banana", self._random.lognormvariate(0.4, 0.5)
        prompt = f"[[sim:latency={min(seconds, 12):.2f}]]{self._directive(model)} Number {number}."
        body: dict[str, Any] = {
            "kind": kind,
            "model": model,
            "input": {"prompt": prompt, **more},
            "timeout": 15,
        }
        body["priority"] = self._random.choices(["interactive", "standard", "batch"], [2, 6, 2])[0]
        body["on_unknown"] = "fail" if draw() < 0.15 else "retry"
        now = datetime.now(UTC)
        if draw() < 0.06:
            body["scheduled_at"] = (now + timedelta(seconds=self._random.uniform(1, 15))).isoformat()
        elif draw() < 0.04:
            body["expires_at"] = (now + timedelta(seconds=self._random.uniform(1, 6))).isoformat()
        return body

    def _directive(self, model: str) -> str:
        """A fault of the provider's for this job alone: seldom. The lite model is the one that limits its rate."""
        if model == "gemini-flash-lite" and self._random.random() < 0.05:
            return "[[sim:fault=429-retryinfo:2;times=1]]"
        if self._random.random() < 0.03:
            names = ["503", "reset", "reset-midbody", "malformed-json", "safety", "400"]
            return f"[[sim:fault={self._random.choice(names)};times=1]]"
        return ""

    # ---- Looking

    def _poll_all(self) -> None:
        while not self._closed.wait(_POLL_SECONDS):
            self._guarded(self._look)

    def _look(self) -> None:
        page = self._json("GET", "/api/v1/jobs", params={"limit": 200})
        for view in page["items"] if page else []:
            self._see(view)
        with self._lock:
            unfinished = [job_id for job_id, told in self.told.items() if not told.final]
            finished = [
                job_id
                for job_id, told in self.told.items()
                if told.seen[-1:] and told.seen[-1][1] == "succeeded"
            ]
        for job_id in self._random.sample(unfinished, min(_POLLED_AT_ONCE, len(unfinished))):
            if view := self._json("GET", f"/api/v1/jobs/{job_id}"):
                self._see(view)
        if finished:
            self._fetch(self._random.choice(finished))

    def _fetch(self, job_id: str) -> None:
        """The result of one that succeeded, picture and all."""
        answer = self._json("GET", f"/api/v1/jobs/{job_id}/result")
        for image in (answer or {"result": {}})["result"].get("images", []):
            response = self._request("GET", image["url"])
            if response is None or response.status_code != 200:
                continue
            self.pictures_checked += 1
            if sha256(response.content).hexdigest() != image["sha256"]:
                self.problems.append(f"{job_id}: the picture's bytes are not those that its result names")

    def _see(self, view: dict[str, Any]) -> None:
        with self._lock:
            told = self.told.get(view["id"])
            now = (int(view["version"]), str(view["state"]))
            if told is not None and (not told.seen or told.seen[-1] != now):
                told.seen.append(now)

    # ---- Asking

    def _json(self, method: str, path: str, **more: Any) -> dict[str, Any] | None:
        response = self._request(method, path, **more)
        if response is None or not response.is_success:
            return None
        parsed: dict[str, Any] = response.json()
        return parsed

    def _request(self, method: str, path: str, **more: Any) -> httpx.Response | None:
        began = time.monotonic()
        try:
            response = self._http.request(method, path, **more)
        except httpx.HTTPError:
            response = None
        status = response.status_code if response is not None else 0
        took = time.monotonic() - began
        with self._lock:
            self.answers[method, status] += 1
            self.slowest[method] = max(self.slowest.get(method, 0.0), took)
            if response is not None and status not in _SOUND:
                self.problems.append(f"{method} {path} was answered with {status}: {response.text[:200]}")
        return response

    def _guarded(self, work: Callable[..., object], *arguments: Any) -> None:
        """A thread's exception would be lost."""
        try:
            work(*arguments)
        except Exception as error:  # noqa: BLE001  told in the report
            self.problems.append(f"the client itself failed: {type(error).__name__}: {error}")
