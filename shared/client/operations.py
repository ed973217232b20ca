"""The API's operations as steps: what is asked for, and what is made of the answer. Nothing here does I/O."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Unpack
from urllib.parse import quote
from uuid import uuid4

import httpx

from shared.client.decoding import decode
from shared.client.errors import NotFound, UnexpectedAnswer, WaitTimeout
from shared.client.models import (
    CancelReceipt,
    Job,
    JobFilter,
    JobPage,
    JobResult,
    JobsCancelled,
    SubmitOptions,
    Summary,
    Upload,
)
from shared.client.retrying import Retries, answered
from shared.client.steps import Emit, Pause, Request, Steps

_JOBS = "/api/v1/jobs"
#: Seconds that the server holds one request at most (``Prefer: wait``).
_LONGEST_WAIT = 60
#: Seconds that an answer may come later than was asked for.
_GRACE = 30.0
_PAGE = 200


def picture(source: bytes | Path | Upload) -> dict[str, str]:
    """An entry of ``input_images``: a picture's file, its bytes, or what was uploaded."""
    if isinstance(source, Upload):
        return {"upload_id": source.id}
    data = source.read_bytes() if isinstance(source, Path) else source
    return {"data": base64.b64encode(data).decode()}


class Operations:
    """With one idea of patience."""

    def __init__(self, retries: Retries) -> None:
        self.retries = retries

    def submit(
        self,
        kind: str,
        job_input: Mapping[str, Any],
        *,
        model: str | None,
        idempotency_key: str | None,
        wait: float,
        **options: Unpack[SubmitOptions],
    ) -> Steps[Job]:
        body: dict[str, Any] = {"kind": kind, "input": job_input, **options}
        if model is not None:
            body["model"] = model
        request = _waiting(post(_JOBS, body, idempotency_key or str(uuid4())), _Clock(wait).whole_seconds())
        response = yield from answered(request, self.retries)
        return decode(Job, json_of(response))

    def upload(self, source: bytes | Path) -> Steps[Upload]:
        """The server knows a file by its bytes, so sending it again makes no second one."""
        name, data = (source.name, source.read_bytes()) if isinstance(source, Path) else ("picture", source)
        response = yield from answered(_form(name, data), self.retries)
        return decode(Upload, json_of(response))

    def replay(
        self, job_id: str, changes: Mapping[str, Any] | None, *, idempotency_key: str | None
    ) -> Steps[Job]:
        request = post(f"{_job(job_id)}/replay", changes or {}, idempotency_key or str(uuid4()))
        response = yield from answered(request, self.retries)
        return decode(Job, json_of(response))

    def get(self, job_id: str, *, attempts: bool) -> Steps[Job]:
        query = [("include", "attempts")] if attempts else []
        response = yield from answered(Request("GET", _job(job_id), query), self.retries)
        return decode(Job, json_of(response))

    def result(self, job_id: str) -> Steps[JobResult]:
        response = yield from answered(Request("GET", f"{_job(job_id)}/result"), self.retries)
        return decode(JobResult, json_of(response))

    def wait(self, job_id: str, timeout: float | None) -> Steps[Job]:
        job = yield from self._polls(job_id, timeout, each_change=False)
        return job

    def watch(self, job_id: str, timeout: float | None) -> Steps[None]:
        """Emits the job as it is, and again with every change, until it is final."""
        yield from self._polls(job_id, timeout, each_change=True)

    def _polls(self, job_id: str, timeout: float | None, *, each_change: bool) -> Steps[Job]:
        """The job once it is final; the server holds each poll until there is news, as far as it can.

        Raises:
            WaitTimeout: it is not, after so many seconds.
        """
        clock, etag = _Clock(timeout), None
        while True:
            began, seconds = time.monotonic(), 0 if each_change and etag is None else clock.whole_seconds()
            request = Request("GET", _job(job_id), headers={"if-none-match": etag} if etag else {})
            response = yield from answered(_waiting(request, seconds), self.retries)
            is_news = each_change and response.status_code != 304
            if response.status_code != 304:
                job = decode(Job, json_of(response))
                etag = response.headers.get("etag") if each_change else None
                if each_change:
                    yield Emit(job)
                if job.is_final:
                    return job
            if clock.left() <= 0:
                raise WaitTimeout(job, clock.timeout)
            if not is_news and time.monotonic() - began < max(seconds, 1):  # it could not hold us
                pause = float(response.headers.get("retry-after", 1))
                yield Pause(min(pause, clock.left()))

    def cancel(self, job_id: str) -> Steps[CancelReceipt]:
        response = yield from answered(post(f"{_job(job_id)}/cancel"), self.retries)
        return decode(CancelReceipt, json_of(response))

    def cancel_all(self, wanted: JobFilter, *, dry_run: bool, limit: int) -> Steps[JobsCancelled]:
        body = {"filter": _filter(wanted), "dry_run": dry_run, "limit": limit}
        response = yield from answered(post(f"{_JOBS}/cancel", body), self.retries)
        return decode(JobsCancelled, json_of(response))

    def delete(self, job_id: str) -> Steps[None]:
        try:
            yield from answered(Request("DELETE", _job(job_id)), self.retries)
        except NotFound as error:
            if not error.repeated:  # otherwise an earlier try has deleted it
                raise

    def jobs(self, wanted: JobFilter, limit: int | None) -> Steps[None]:
        """Emits each job, newest first, page after page; a page may be empty and have a next one."""
        query = [
            (name, value)
            for name, values in _filter(wanted).items()
            for value in ([values] if isinstance(values, str) else values)
        ]
        cursor: str | None = None
        given = 0
        while limit is None or given < limit:
            size = _PAGE if limit is None else min(_PAGE, limit - given)
            page_query = [*query, ("limit", str(size)), *([("cursor", cursor)] if cursor else [])]
            response = yield from answered(Request("GET", _JOBS, page_query), self.retries)
            page = decode(JobPage, json_of(response))
            for job in page.items:
                given += 1
                yield Emit(job)
            cursor = page.next_cursor
            if cursor is None:
                return

    def summary(self, finished_after: datetime | None, finished_before: datetime | None) -> Steps[Summary]:
        times = {"finished_after": finished_after, "finished_before": finished_before}
        query = [(name, _default(value)) for name, value in times.items() if value is not None]
        response = yield from answered(Request("GET", f"{_JOBS}/summary", query), self.retries)
        return decode(Summary, json_of(response))


class _Clock:
    """Counts down; without a timeout there is always time left."""

    def __init__(self, timeout: float | None) -> None:
        self.timeout = math.inf if timeout is None else timeout
        self._until = time.monotonic() + self.timeout

    def left(self) -> float:
        return self._until - time.monotonic()

    def whole_seconds(self) -> int:
        """For which the server can be asked to wait."""
        return int(max(0.0, min(_LONGEST_WAIT, self.left() + 0.1)))


def _job(job_id: str) -> str:
    return f"{_JOBS}/{quote(job_id, safe='')}"


def post(path: str, body: Any = None, idempotency_key: str | None = None) -> Request:
    """A request with a body of JSON, or with none."""
    headers = {"idempotency-key": idempotency_key} if idempotency_key else {}
    if body is None:
        return Request("POST", path, headers=headers)
    content = json.dumps(body, default=_default, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return Request(
        "POST", path, headers={**headers, "content-type": "application/json"}, content=content.encode()
    )


def _form(name: str, data: bytes) -> Request:
    """A file and its digest as multipart/form-data (RFC 7578)."""
    boundary = uuid4().hex
    digest = hashlib.sha256(data).hexdigest()
    shown = "".join(char for char in name if char.isprintable() and char not in '"\\')
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="sha256"\r\n\r\n{digest}\r\n'
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{shown}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    content = b"".join([head.encode(), data, f"\r\n--{boundary}--\r\n".encode()])
    headers = {"content-type": f"multipart/form-data; boundary={boundary}"}
    return Request("POST", "/api/v1/uploads", headers=headers, content=content)


def _waiting(request: Request, seconds: int) -> Request:
    """The request that is answered once there is something to say, or after so many seconds."""
    if seconds < 1:
        return request
    return replace(request.with_headers(prefer=f"wait={seconds}"), read_timeout=seconds + _GRACE)


def _default(value: Any) -> Any:
    """What JSON has no form for."""
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError(f"a time needs a zone, such as UTC: {value!r}")
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence | set | frozenset):
        return list(value)
    raise TypeError(f"cannot be sent: {type(value).__name__}")


def _filter(wanted: JobFilter) -> dict[str, str | list[str]]:
    """As a body and a query take it."""
    found: dict[str, str | list[str]] = {}
    for name, value in wanted.items():
        if value is None:
            continue
        if isinstance(value, Mapping):
            found[name] = [f"{key}={text}" for key, text in value.items()]
        elif isinstance(value, str):
            found[name] = [value] if name in {"state", "tag"} else value
        elif isinstance(value, Iterable):
            found[name] = [str(item) for item in value]
        else:
            found[name] = _default(value)
    return found


def json_of(response: httpx.Response) -> Any:
    """Raises: UnexpectedAnswer."""
    try:
        return json.loads(response.content)
    except ValueError as error:
        raise UnexpectedAnswer(
            f"{response.request.url.host} answered {response.status_code} with something other than JSON: "
            "is this the address of Plantain?"
        ) from error
