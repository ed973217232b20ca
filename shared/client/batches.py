"""Batches: many jobs of one request, waited for together, and the results of all of them."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Unpack
from urllib.parse import quote
from uuid import uuid4

import httpx

from shared.client.decoding import decode
from shared.client.errors import BatchTimeout, UnexpectedAnswer
from shared.client.models import Batch, BatchCancelled, BatchOptions, BatchResult
from shared.client.operations import json_of, post
from shared.client.retrying import Retries, Tries, answered, no_answer, opened
from shared.client.steps import Emit, Opened, Pause, Read, Request, Steps

_BATCHES = "/api/v1/batches"
#: Seconds that the server may take to check and store ten thousand jobs, or to cancel some of them.
_LONGEST = 120.0
#: Between two looks, where the server does not say.
_LOOK_SECONDS = 1.0


def submit(
    jobs: Iterable[Mapping[str, Any]],
    retries: Retries,
    *,
    idempotency_key: str | None,
    **options: Unpack[BatchOptions],
) -> Steps[Batch]:
    request = post(_BATCHES, {**options, "jobs": list(jobs)}, idempotency_key or str(uuid4()))
    response = yield from answered(replace(request, read_timeout=_LONGEST), retries)
    return decode(Batch, json_of(response))


def get(batch_id: str, retries: Retries) -> Steps[Batch]:
    response = yield from answered(Request("GET", _batch(batch_id)), retries)
    return decode(Batch, json_of(response))


def wait(batch_id: str, timeout: float | None, retries: Retries) -> Steps[Batch]:
    """The batch once all of its jobs are final.

    Raises:
        BatchTimeout: they are not, after so many seconds.
    """
    patience = math.inf if timeout is None else timeout
    until = time.monotonic() + patience
    while True:
        batch = yield from get(batch_id, retries)
        if batch.is_completed:
            return batch
        left = until - time.monotonic()
        if left <= 0:
            raise BatchTimeout(batch, patience)
        yield Pause(min(_LOOK_SECONDS, left))


def cancel(batch_id: str, retries: Retries) -> Steps[BatchCancelled]:
    request = replace(post(f"{_batch(batch_id)}/cancel"), read_timeout=_LONGEST)
    response = yield from answered(request, retries)
    return decode(BatchCancelled, json_of(response))


def results(batch_id: str, after: int | None, retries: Retries) -> Steps[None]:
    """Emits each ``BatchResult``, in the order of the batch. Where the answer breaks off, goes on after the last one."""
    tries = Tries(retries)
    while True:
        query = [] if after is None else [("after", str(after))]
        stream = yield from opened(Request("GET", f"{_batch(batch_id)}/results", query), retries)
        lines, failure = _Lines(), None
        try:
            while (data := (yield Read(stream))) is not None:
                for line in lines.feed(data):
                    result = decode(BatchResult, _object(line, stream))
                    after, tries = result.index, Tries(retries)
                    yield Emit(result)
        except httpx.RequestError as error:
            failure = error
        if failure is None and not lines.begun:
            return
        pause = tries.next_pause(None)
        if pause is None:
            lost = failure or httpx.ReadError("the server ended it within a line")
            raise no_answer(Request("GET", f"{_batch(batch_id)}/results"), lost, tries.made) from failure
        yield Pause(pause)


class _Lines:
    """Bytes in, lines out, wherever the bytes are cut."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    @property
    def begun(self) -> bool:
        """A line has begun that did not end."""
        return bool(self._parts)

    def feed(self, data: bytes) -> Iterator[bytes]:
        *ends, rest = data.split(b"\n")
        for end in ends:
            line, self._parts = b"".join([*self._parts, end]), []
            yield line
        if rest:
            self._parts.append(rest)


def _object(line: bytes, stream: Opened) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise UnexpectedAnswer(
            f"{stream.response.request.url.host} answered with a line that is not JSON: is this the address of Plantain?"
        ) from error


def _batch(batch_id: str) -> str:
    return f"{_BATCHES}/{quote(batch_id, safe='')}"
