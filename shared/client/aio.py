"""The client of programs that run on asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
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


class AsyncPlantain:
    """``Plantain`` for one event loop: the same methods, arguments and errors, to be awaited or iterated over."""

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        timeout: float = 30,
        retries: Retries | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        found = connection(url, api_key)
        self.url = str(found.url)
        self._do = Operations(retries or Retries())
        self._http = httpx.AsyncClient(transport=transport, **found.settings(timeout))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    async def close(self) -> None:
        """Closes its connections."""
        await self._http.aclose()

    async def submit(
        self,
        kind: str,
        job_input: Mapping[str, Any],
        *,
        model: str | None = None,
        idempotency_key: str | None = None,
        wait: float = 0,
        **options: Unpack[SubmitOptions],
    ) -> Job:
        """See ``Plantain.submit``."""
        return await self._run(
            self._do.submit(
                kind, job_input, model=model, idempotency_key=idempotency_key, wait=wait, **options
            )
        )

    async def get(self, job_id: str, *, attempts: bool = False) -> Job:
        """The job as it is now."""
        return await self._run(self._do.get(job_id, attempts=attempts))

    async def wait(self, job_id: str, timeout: float | None = None) -> Job:
        """See ``Plantain.wait``."""
        return await self._run(self._do.wait(job_id, timeout))

    def watch(self, job_id: str, timeout: float | None = None) -> AsyncIterator[Job]:
        """See ``Plantain.watch``."""
        return self._iterate(self._do.watch(job_id, timeout))

    async def result(self, job_id: str) -> JobResult:
        """What a succeeded job made; ``Conflict`` says why there is nothing (yet)."""
        return await self._run(self._do.result(job_id))

    def stream(self, job_id: str | None = None, *, last_event_id: int | None = None) -> AsyncIterator[Event]:
        """See ``Plantain.stream``."""
        return self._iterate(streams.events(job_id, last_event_id, self._do.retries))

    def text(self, job_id: str) -> AsyncIterator[Delta]:
        """See ``Plantain.text``."""
        return self._iterate(streams.texts(job_id, self._do.retries))

    async def cancel(self, job_id: str) -> CancelReceipt:
        """Calls the job off; ``outcome`` says what that did."""
        return await self._run(self._do.cancel(job_id))

    async def cancel_all(
        self, *, dry_run: bool = False, limit: int = 1000, **wanted: Unpack[JobFilter]
    ) -> JobsCancelled:
        """See ``Plantain.cancel_all``."""
        return await self._run(self._do.cancel_all(wanted, dry_run=dry_run, limit=limit))

    async def replay(
        self, job_id: str, changes: Mapping[str, Any] | None = None, *, idempotency_key: str | None = None
    ) -> Job:
        """See ``Plantain.replay``."""
        return await self._run(self._do.replay(job_id, changes, idempotency_key=idempotency_key))

    async def upload(self, source: bytes | Path) -> Upload:
        """See ``Plantain.upload``."""
        return await self._run(self._do.upload(source))

    async def submit_batch(
        self,
        jobs: Iterable[Mapping[str, Any]],
        *,
        idempotency_key: str | None = None,
        **options: Unpack[BatchOptions],
    ) -> Batch:
        """See ``Plantain.submit_batch``."""
        return await self._run(
            batches.submit(jobs, self._do.retries, idempotency_key=idempotency_key, **options)
        )

    async def batch(self, batch_id: str) -> Batch:
        """The batch as it is now."""
        return await self._run(batches.get(batch_id, self._do.retries))

    async def wait_batch(self, batch_id: str, timeout: float | None = None) -> Batch:
        """See ``Plantain.wait_batch``."""
        return await self._run(batches.wait(batch_id, timeout, self._do.retries))

    def batch_results(self, batch_id: str, *, after: int | None = None) -> AsyncIterator[BatchResult]:
        """See ``Plantain.batch_results``."""
        return self._iterate(batches.results(batch_id, after, self._do.retries))

    async def cancel_batch(self, batch_id: str) -> BatchCancelled:
        """See ``Plantain.cancel_batch``."""
        return await self._run(batches.cancel(batch_id, self._do.retries))

    async def delete(self, job_id: str) -> None:
        """Deletes a final job with its pictures."""
        await self._run(self._do.delete(job_id))

    def jobs(self, *, limit: int | None = None, **wanted: Unpack[JobFilter]) -> AsyncIterator[Job]:
        """Jobs, newest first, page after page as they are asked for."""
        return self._iterate(self._do.jobs(wanted, limit))

    async def summary(
        self, *, finished_after: datetime | None = None, finished_before: datetime | None = None
    ) -> Summary:
        """Counts and costs."""
        return await self._run(self._do.summary(finished_after, finished_before))

    async def download(self, artifact: Image | str, path: str | Path) -> Path:
        """See ``Plantain.download``."""
        return await self._run(downloads.download(artifact, Path(path), self._do.retries))

    async def _run(self, steps: Steps[T]) -> T:
        script = Script(steps)
        try:
            while not script.done:
                await self._advance(script)
        finally:
            await self._end(script)
        return script.value

    async def _iterate(self, steps: Steps[None]) -> AsyncIterator[Any]:
        script = Script(steps)
        try:
            while not script.done:
                if isinstance(script.effect, Emit):
                    yield script.effect.value
                    script.answer(None)
                else:
                    await self._advance(script)
        finally:
            await self._end(script)

    async def _advance(self, script: Script[Any]) -> None:
        try:
            if script.opened and isinstance(script.effect, Open | Pause):
                await script.opened.response.aclose()
            answer = await self._done(script.effect)
        except httpx.RequestError as error:
            script.fail(error)
        else:
            script.answer(answer)

    async def _done(self, effect: Effect) -> Any:
        match effect:
            case Send(request):
                return await self._http.send(
                    self._http.build_request(**arguments(request, self._http.timeout))
                )
            case Open(request):
                made = self._http.build_request(**arguments(request, self._http.timeout))
                response = await self._http.send(made, stream=True)
                if response.is_error:
                    await response.aread()
                return Opened(response, response.aiter_bytes())
            case Read(opened):
                assert isinstance(opened.chunks, AsyncIterator)
                return await anext(opened.chunks, None)
            case Pause(seconds):
                await asyncio.sleep(seconds)
        return None

    @staticmethod
    async def _end(script: Script[Any]) -> None:
        script.close()
        if script.opened:
            await script.opened.response.aclose()
