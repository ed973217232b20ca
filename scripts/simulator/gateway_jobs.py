"""The gateway's memory: jobs under way and done, found by id and by Idempotency-Key, bounded in bytes."""

import asyncio
import hashlib
import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from .faults import Asked
from .gateway_request import GatewayError, Order, invalid
from .pictures import Picture

MAX_BYTES = 256 * 1024 * 1024
MAX_JOBS = 20_000


@dataclass
class Job:
    """One piece of work. `task` ends when it is done; the outcome is then in the other fields."""

    order: Order
    fault: Asked | None
    seconds: float
    digest: bytes
    id: str = field(default_factory=lambda: "viz_" + secrets.token_hex(12))
    started: float = field(default_factory=time.monotonic)
    status: str = "queued"
    pictures: list[Picture] = field(default_factory=list)
    error: GatewayError | None = None
    polls: int = 0
    task: asyncio.Task[None] | None = None

    @property
    def weight(self) -> int:
        """Bytes held."""
        inputs = sum(len(data) for _, data in self.order.inputs)
        return 2_000 + inputs + sum(len(picture.data) for picture in self.pictures)

    def progress(self) -> str:
        """The status: queued for the first sixth of the time, then running until it is final."""
        if self.status == "queued" and time.monotonic() - self.started > self.seconds / 6:
            return "running"
        return self.status

    def poll_after_ms(self) -> int:
        """When the client should come again."""
        return round(min(2.0, max(0.05, self.seconds / 8)) * 1000)


class Jobs:
    """All jobs still remembered: beyond the byte budget the oldest finished ones go."""

    def __init__(self) -> None:
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._by_key: dict[str, str] = {}
        self._keys: dict[str, str] = {}
        self._bytes = 0

    def __getitem__(self, job_id: str) -> Job:
        return self._jobs[job_id]

    def replay(self, key: str | None, digest: bytes) -> Job | None:
        """The job of this Idempotency-Key. Raises GatewayError when it was sent with another body."""
        job = self._jobs.get(self._by_key.get(key or "", ""))
        if job is not None and job.digest != digest:
            raise invalid("this Idempotency-Key came with another body before", 422)
        return job

    def add(self, job: Job, key: str | None) -> None:
        """Remember a job that has begun."""
        self._jobs[job.id] = job
        if key:
            self._by_key[key] = job.id
            self._keys[job.id] = key

    def done(self, job: Job) -> None:
        """The job's pictures count from now on."""
        self._bytes += job.weight
        while self._jobs and (self._bytes > MAX_BYTES or len(self._jobs) > MAX_JOBS):
            oldest = next((one for one in self._jobs.values() if one.task and one.task.done()), None)
            if oldest is None:
                return
            self._forget(oldest)

    def _forget(self, job: Job) -> None:
        del self._jobs[job.id]
        self._bytes -= job.weight
        key = self._keys.pop(job.id, None)
        if key is not None and self._by_key.get(key) == job.id:
            del self._by_key[key]


def digest_of(raw: bytes) -> bytes:
    """What tells one body from another."""
    return hashlib.sha256(raw).digest()


def usage_of(job: Job, tokens_in: int, tokens_out: int) -> dict[str, Any]:
    """The usage object."""
    return {
        "input_tokens": tokens_in,
        "output_tokens": tokens_out,
        "images": len(job.pictures),
        "cost_usd": None,
    }
