"""The counters: every call that reached a provider form, by job and attempt, so that double billing shows."""

import re
from collections import Counter, OrderedDict
from collections.abc import Mapping
from typing import Any

MAX_JOBS = 200_000
MAX_MODELS = 1_000  # unknown ids are counted too, and a client may send any number of them

_UUID = r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}"
_JOB_AND_ATTEMPT = re.compile(rf"({_UUID}|.+?)(?:-(\d{{1,6}}))?")


def split_request_id(value: str | None) -> tuple[str | None, int]:
    """`<job>-<attempt>` as (job, attempt); the attempt is 0 where there is none, the job None without an id."""
    match = _JOB_AND_ATTEMPT.fullmatch(value.strip()) if value else None
    if match is None:
        return None, 0
    return match.group(1)[:200], int(match.group(2) or 0)


class Call:
    """One call under way. `finish` must be called exactly once."""

    __slots__ = ("_board", "attempt", "billed", "form", "job", "model", "outcome")

    def __init__(self, board: "CallBoard", form: str, job: str | None, attempt: int) -> None:
        self._board = board
        self.form = form
        self.job = job
        self.attempt = attempt
        self.model = ""
        self.billed = False
        self.outcome = "answered"

    def bill(self) -> None:
        """The provider has begun work that it charges for; counted at once, because the client may leave."""
        if not self.billed:
            self.billed = True
            self._board.count_billed(self)

    def finish(self) -> None:
        """Take the call off the board and count its outcome."""
        self._board.finished(self)


class CallBoard:
    """All counters. Memory is bounded: beyond `MAX_JOBS` the job seen longest ago is forgotten."""

    def __init__(self, max_jobs: int = MAX_JOBS) -> None:
        self._max_jobs = max_jobs
        self._in_flight = 0
        self.reset()

    def reset(self) -> None:
        """Forget everything but the calls that are still under way."""
        self.total = 0
        self.billed = 0
        self.replayed = 0
        self.polls = 0
        self.keys_forwarded = 0
        self.client_left = 0
        self.forgotten_jobs = 0
        self.billed_again = 0
        self.max_in_flight = self._in_flight
        self.by_model: Counter[str] = Counter()
        self.by_outcome: Counter[str] = Counter()
        self.by_form: Counter[str] = Counter()
        # job -> flat (attempt, calls, billed, attempt, calls, billed, …): a third of what nested dicts would weigh.
        self._jobs: OrderedDict[str, tuple[int, ...]] = OrderedDict()

    def begin(self, form: str, request_id: str | None) -> Call:
        """A call has arrived; `request_id` is `<job>-<attempt>` or None."""
        job, attempt = split_request_id(request_id)
        call = Call(self, form, job, attempt)
        self.total += 1
        self.by_form[form] += 1
        self._in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self._in_flight)
        if job is not None:
            self._add(job, attempt, calls=1, billed=0)
        return call

    def count_billed(self, call: Call) -> None:
        """One more billed call of the call's job."""
        self.billed += 1
        if call.job is not None:
            if any(self._jobs.get(call.job, ())[2::3]):
                self.billed_again += 1
            self._add(call.job, call.attempt, calls=0, billed=1)

    def finished(self, call: Call) -> None:
        """The call has been answered, or its client has gone."""
        self._in_flight -= 1
        self.by_outcome[call.outcome] += 1
        known = call.model in self.by_model or len(self.by_model) < MAX_MODELS
        self.by_model[call.model if known else "(other)"] += 1
        if call.outcome == "client_left":
            self.client_left += 1

    def _add(self, job: str, attempt: int, calls: int, billed: int) -> None:
        flat = list(self._jobs.pop(job, ()))
        attempts = flat[0::3]
        if attempt in attempts:
            at = attempts.index(attempt) * 3
            flat[at + 1] += calls
            flat[at + 2] += billed
        else:
            flat += (attempt, calls, billed)
        self._jobs[job] = tuple(flat)
        if len(self._jobs) > self._max_jobs:
            self._jobs.popitem(last=False)
            self.forgotten_jobs += 1

    def snapshot(self, job: str | None = None, with_jobs: bool = True) -> dict[str, Any]:
        """The JSON of `GET /sim/calls`; with `job`, only that job's attempts are listed."""
        jobs: Mapping[str, tuple[int, ...]] = self._jobs if with_jobs else {}
        if job is not None:
            jobs = {job: self._jobs[job]} if job in self._jobs else {}
        return {
            "total": self.total,
            "billed": self.billed,
            "replayed": self.replayed,
            "polls": self.polls,
            "keys_forwarded": self.keys_forwarded,
            "client_left": self.client_left,
            "in_flight": self._in_flight,
            "max_in_flight": self.max_in_flight,
            "jobs": len(self._jobs),
            "forgotten_jobs": self.forgotten_jobs,
            "billed_again": self.billed_again,
            "by_form": dict(self.by_form),
            "by_model": dict(self.by_model),
            "by_outcome": dict(self.by_outcome),
            "by_job": {key: _attempts(flat, 1) for key, flat in jobs.items()},
            "billed_by_job": {key: _attempts(flat, 2) for key, flat in jobs.items() if any(flat[2::3])},
        }


def _attempts(flat: tuple[int, ...], column: int) -> dict[str, int]:
    return {str(flat[at]): flat[at + column] for at in range(0, len(flat), 3)}
