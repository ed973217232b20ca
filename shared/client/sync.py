"""The client of programs that block."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Self, TypeVar, Unpack

import httpx

from shared.client import batches, downloads, streams
from shared.client.connection import arguments, connection
from shared.client.models import (
    Batch,
    BatchCancelled,
    BatchOptions,
    BatchResult,
    CancelReceipt,
    Delta,
    Event,
    Image,
    Job,
    JobFilter,
    JobResult,
    JobsCancelled,
    SubmitOptions,
    Summary,
    Upload,
)
from shared.client.operations import Operations
from shared.client.retrying import Retries
from shared.client.steps import Effect, Emit, Open, Opened, Pause, Read, Script, Send, Steps

T = TypeVar("T")


class Plantain:
    """Speaks to one server with one key; may be shared by threads.

    Args:
        url: the server's address; left out, ``PLANTAIN_URL``.
        api_key: left out, ``PLANTAIN_API_KEY`` or the file that ``PLANTAIN_API_KEY_FILE`` names.
        timeout: seconds without a sign of life after which a try is given up.
        retries: how patient it is where the server is away or busy.
        transport: httpx's, for tests, proxies and certificates of your own.

    Raises:
        ConfigurationError: address or key are missing or cannot be used.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        timeout: float = 30,
        retries: Retries | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        found = connection(url, api_key)
        self.url = str(found.url)
        self._do = Operations(retries or Retries())
        self._http = httpx.Client(transport=transport, **found.settings(timeout))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    def close(self) -> None:
        """Closes its connections."""
        self._http.close()

    def submit(
        self,
        kind: str,
        job_input: Mapping[str, Any],
        *,
        model: str | None = None,
        idempotency_key: str | None = None,
        wait: float = 0,
        **options: Unpack[SubmitOptions],
    ) -> Job:
        """Submits a job, once: however often it has to be sent, there is one.

        Args:
            kind: such as ``text.generate``.
            job_input: the kind's own, such as ``{"prompt": "…"}``.
            model: an alias; left out, the kind's default.
            idempotency_key: left out, a new one; the same within 7 days gives the same job, also after a restart of yours.
            wait: seconds for which the answer may wait for the job's end, 60 at most.
            options: see ``SubmitOptions``.
        """
        return self._run(
            self._do.submit(
                kind, job_input, model=model, idempotency_key=idempotency_key, wait=wait, **options
            )
        )

    def get(self, job_id: str, *, attempts: bool = False) -> Job:
        """The job as it is now."""
        return self._run(self._do.get(job_id, attempts=attempts))

    def wait(self, job_id: str, timeout: float | None = None) -> Job:
        """The job once it is final, however it ended. Raises ``WaitTimeout`` after so many seconds; the job goes on."""
        return self._run(self._do.wait(job_id, timeout))

    def watch(self, job_id: str, timeout: float | None = None) -> Iterator[Job]:
        """The job as it is, and again with every change of its state or waiting reason, until it is final."""
        return self._iterate(self._do.watch(job_id, timeout))

    def result(self, job_id: str) -> JobResult:
        """What a succeeded job made; ``Conflict`` says why there is nothing (yet)."""
        return self._run(self._do.result(job_id))

    def stream(self, job_id: str | None = None, *, last_event_id: int | None = None) -> Iterator[Event]:
        """Events as they happen, each once and in order, across reconnects.

        Of a job: from its first event to its final one. Without: everything in the project from now on, without an end.
        ``last_event_id`` goes on after that event; 0 begins with the oldest.
        """
        return self._iterate(streams.events(job_id, last_event_id, self._do.retries))

    def text(self, job_id: str) -> Iterator[Delta]:
        """A text as it is made, piece by piece, of a job submitted with ``stream=True``; ends with the job.

        Without overlaps and gaps, across reconnects. A larger ``attempt`` than before begins the text anew.
        """
        return self._iterate(streams.texts(job_id, self._do.retries))

    def cancel(self, job_id: str) -> CancelReceipt:
        """Calls the job off; ``outcome`` says what that did."""
        return self._run(self._do.cancel(job_id))

    def cancel_all(
        self, *, dry_run: bool = False, limit: int = 1000, **wanted: Unpack[JobFilter]
    ) -> JobsCancelled:
        """Calls off what the filter lets through; send it again where the answer says ``more``."""
        return self._run(self._do.cancel_all(wanted, dry_run=dry_run, limit=limit))

    def replay(
        self, job_id: str, changes: Mapping[str, Any] | None = None, *, idempotency_key: str | None = None
    ) -> Job:
        """A new job that asks for the same, with changes as a JSON merge patch (RFC 7396)."""
        return self._run(self._do.replay(job_id, changes, idempotency_key=idempotency_key))

    def upload(self, source: bytes | Path) -> Upload:
        """Gives the server a picture that several jobs will use; see ``picture``. The same bytes are stored once."""
        return self._run(self._do.upload(source))

    def submit_batch(
        self,
        jobs: Iterable[Mapping[str, Any]],
        *,
        idempotency_key: str | None = None,
        **options: Unpack[BatchOptions],
    ) -> Batch:
        """Submits up to 10,000 jobs at once: all of them, or none; and once, however often it has to be sent.

        Args:
            jobs: each as the body of a submit: ``kind``, ``input`` and the rest.
            idempotency_key: left out, a new one; see ``submit``.
            options: see ``BatchOptions``.
        """
        return self._run(batches.submit(jobs, self._do.retries, idempotency_key=idempotency_key, **options))

    def batch(self, batch_id: str) -> Batch:
        """The batch as it is now."""
        return self._run(batches.get(batch_id, self._do.retries))

    def wait_batch(self, batch_id: str, timeout: float | None = None) -> Batch:
        """The batch once all of its jobs are final. Raises ``BatchTimeout`` after so many seconds; it goes on."""
        return self._run(batches.wait(batch_id, timeout, self._do.retries))

    def batch_results(self, batch_id: str, *, after: int | None = None) -> Iterator[BatchResult]:
        """What became of each job, in the order of the batch, as it is by then; goes on where a connection breaks.

        ``after`` begins after the job with this index.
        """
        return self._iterate(batches.results(batch_id, after, self._do.retries))

    def cancel_batch(self, batch_id: str) -> BatchCancelled:
        """Calls off those of its jobs that are not final; the server goes on with what one request does not get to."""
        return self._run(batches.cancel(batch_id, self._do.retries))

    def delete(self, job_id: str) -> None:
        """Deletes a final job with its pictures."""
        self._run(self._do.delete(job_id))

    def jobs(self, *, limit: int | None = None, **wanted: Unpack[JobFilter]) -> Iterator[Job]:
        """Jobs, newest first, page after page as they are asked for."""
        return self._iterate(self._do.jobs(wanted, limit))

    def summary(
        self, *, finished_after: datetime | None = None, finished_before: datetime | None = None
    ) -> Summary:
        """Counts and costs."""
        return self._run(self._do.summary(finished_after, finished_before))

    def download(self, artifact: Image | str, path: str | Path) -> Path:
        """Writes a picture to a file, or into a folder under its id; gives the file's path.

        A file that is there is replaced, once all bytes have come and their SHA-256 is right. Broken off, it is
        resumed, also by a later call.
        """
        return self._run(downloads.download(artifact, Path(path), self._do.retries))

    def _run(self, steps: Steps[T]) -> T:
        script = Script(steps)
        try:
            while not script.done:
                self._advance(script)
        finally:
            self._end(script)
        return script.value

    def _iterate(self, steps: Steps[None]) -> Iterator[Any]:
        script = Script(steps)
        try:
            while not script.done:
                if isinstance(script.effect, Emit):
                    yield script.effect.value
                    script.answer(None)
                else:
                    self._advance(script)
        finally:
            self._end(script)

    def _advance(self, script: Script[Any]) -> None:
        try:
            if script.opened and isinstance(script.effect, Open | Pause):
                script.opened.response.close()
            answer = self._done(script.effect)
        except httpx.RequestError as error:
            script.fail(error)
        else:
            script.answer(answer)

    def _done(self, effect: Effect) -> Any:
        match effect:
            case Send(request):
                return self._http.send(self._http.build_request(**arguments(request, self._http.timeout)))
            case Open(request):
                made = self._http.build_request(**arguments(request, self._http.timeout))
                response = self._http.send(made, stream=True)
                if response.is_error:
                    response.read()
                return Opened(response, response.iter_bytes())
            case Read(opened):
                assert isinstance(opened.chunks, Iterator)
                return next(opened.chunks, None)
            case Pause(seconds):
                time.sleep(seconds)
        return None

    @staticmethod
    def _end(script: Script[Any]) -> None:
        script.close()
        if script.opened:
            script.opened.response.close()
