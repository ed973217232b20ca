"""The jobs of a batch on their way in: checked one by one, kept as the text that the database gets."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

import orjson
from pydantic import ValidationError
from uuid_utils.compat import uuid7

from shared.batches.schemas import BatchOptions
from shared.errors import MAX_ERRORS, AppError, FieldError, ValidationFailed, field_errors
from shared.jobs.drafts import Draft
from shared.jobs.references import Named
from shared.jobs.schemas import JobSubmit
from shared.jobs.service import JobService
from shared.jobs.status import Priority
from shared.kinds.base import InputImage, InputUpload

#: What one statement inserts at most.
_CHUNK_JOBS = 500
_CHUNK_BYTES = 1_000_000
_MAX_LABELS = 16
#: Pictures that are looked up in one statement at most, but for those of its last job: a few milliseconds.
_CHUNK_NAMED = 1000


@dataclass(frozen=True, slots=True)
class Place:
    """Where a job stands in the request, for its errors."""

    index: int
    #: Of a JSONL body, from 1; None where the body is one JSON object.
    line: int | None = None

    def of(self, error: FieldError) -> FieldError:
        """The same error as one of the whole body."""
        prefix = "" if self.line else f"/jobs/{self.index}"
        return replace(error, pointer=prefix + error.pointer, index=self.index, line=self.line)


@dataclass(frozen=True, slots=True)
class Reference:
    """A job's picture that is an upload."""

    job_id: UUID
    image: InputUpload
    #: None: the job does not stand in the request.
    place: Place | None

    def of(self, error: FieldError) -> FieldError:
        return self.place.of(error) if self.place else error


@dataclass(slots=True)
class Intake:
    """Takes the jobs of one batch. What is not allowed is collected; from then on nothing else is kept.

    Args:
        options: must be whole before the first job is taken.
        request_id: names the request that asks for it.
    """

    project_id: UUID
    options: BatchOptions
    request_id: str | None = None
    id: UUID = field(default_factory=uuid7)
    errors: list[FieldError] = field(default_factory=list)
    #: Id and queue of each job, in order.
    jobs: list[tuple[UUID, str]] = field(default_factory=list)
    #: Bytes that all of it takes.
    size: int = 0
    #: The jobs that came with pictures, and those pictures.
    pictures: list[tuple[UUID, Sequence[InputImage]]] = field(default_factory=list)
    uploads: list[Reference] = field(default_factory=list)
    #: Jobs that were kept and whose references are not looked up yet, and how many these are.
    _pending: list[tuple[Place, Named]] = field(default_factory=list, repr=False)
    _named: int = 0
    #: Lists of jobs as JSON, each without its end, and how many jobs stand in the last one.
    _chunks: deque[bytearray] = field(default_factory=deque, repr=False)
    _in_last: int = 0
    _defaults: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        priority = self.options.priority or Priority.BATCH
        self._defaults = {"priority": str(priority), **self.options.defaults}

    @property
    def total(self) -> int:
        return len(self.jobs)

    @property
    def full_of_errors(self) -> bool:
        """Nobody is told of more: what else comes need not be checked."""
        return len(self.errors) > MAX_ERRORS

    async def draft(
        self,
        service: JobService,
        job: Any,
        *,
        replay_of: UUID | None = None,
        look_up: bool = True,
    ) -> Draft:
        """One job as it would be stored; see ``JobService.draft``.

        Raises:
            ValidationFailed: something in it is not allowed.
        """
        return await service.draft(
            self.project_id,
            self._submit(job),
            replay_of=replay_of,
            request_id=self.request_id,
            look_up=look_up,
        )

    async def take(self, service: JobService, job: Any, place: Place) -> None:
        """Checks one job; what is wrong with it is one of ``errors``, what it names by the next ``settle`` at the latest."""
        try:
            draft = await self.draft(service, job, look_up=False)
        except AppError as error:
            self.refuse(place, *(error.errors or [FieldError("", error.code, error.detail)]))
            return
        self.keep(draft, place.index, place)
        if draft.unchecked is not None:
            self._pending.append((place, draft.unchecked))
            self._named += max(1, len(draft.unchecked.uploads))
            if self._named >= _CHUNK_NAMED:
                await self.settle(service)

    async def settle(self, service: JobService) -> None:
        """Looks up what the jobs name that were taken since the last time; needed after the last job."""
        pending, self._pending, self._named = self._pending, [], 0
        if not pending:
            return
        unfit = await service.unfit(self.project_id, [named for _, named in pending])
        late = [
            place.of(error) for (place, _), errors in zip(pending, unfit, strict=True) for error in errors
        ]
        if late:
            # Jobs after these may have been refused already: the errors are told in the order of the jobs.
            self.errors = sorted([*self.errors, *late], key=lambda error: error.index or 0)[: MAX_ERRORS + 1]
            self._let_go()

    def refuse(self, place: Place, *errors: FieldError) -> None:
        """Notes what is wrong with a job, and lets go of those that were kept."""
        self.errors += map(place.of, errors[: MAX_ERRORS + 1 - len(self.errors)])
        self._let_go()

    def _let_go(self) -> None:
        self.jobs.clear()
        self.pictures.clear()
        self.uploads.clear()
        self._chunks.clear()

    def keep(self, draft: Draft, index: int, place: Place | None = None) -> None:
        """Args: place: where it stands in the request; None: it does not."""
        if self.errors:
            return
        row = draft.row
        if self.jobs and row["id"] <= self.jobs[-1][0]:  # the order of ids is that of the batch
            row["id"] = UUID(int=self.jobs[-1][0].int + 1)
        row |= {"batch_id": self.id, "batch_index": index}
        self._write(orjson.dumps(row))
        self.jobs.append((row["id"], row["queue"]))
        if draft.images:
            self._keep_images(draft, place)

    def _keep_images(self, draft: Draft, place: Place | None) -> None:
        job_id = draft.row["id"]
        if inline := draft.inline:
            self.size += sum(len(image.data) for image in inline)
            self.pictures.append((job_id, inline))
        self.uploads += [Reference(job_id, image, place) for image in draft.uploads]

    def chunks(self) -> Iterator[str]:
        """All jobs as ``queries.submit_of_batch`` takes them, so many in a statement. Each is let go of."""
        while self._chunks:
            yield (self._chunks.popleft() + b"]").decode()

    def _write(self, row: bytes) -> None:
        """As text: the parsed form of many small parts takes ten times the memory. And at once, as orjson gives its
        buffer away whole, whatever little stands in it.
        """
        self.size += len(row)
        last = self._chunks[-1] if self._chunks else None
        if last is None or self._in_last >= _CHUNK_JOBS or len(last) + len(row) > _CHUNK_BYTES:
            self._chunks.append(bytearray(b"[" + row))
            self._in_last = 1
        else:
            last += b","
            last += row
            self._in_last += 1

    def _submit(self, job: Any) -> JobSubmit:
        """Raises: ValidationFailed."""
        try:
            submit = JobSubmit.model_validate(_completed(self._defaults, job))
        except ValidationError as error:
            raise ValidationFailed("", errors=field_errors(error)) from None
        if self.options.tags:
            submit.tags = list(dict.fromkeys([*submit.tags, *self.options.tags]))
        if self.options.metadata:
            submit.metadata = {**self.options.metadata, **submit.metadata}
        for name in ("tags", "metadata"):
            if len(getattr(submit, name)) > _MAX_LABELS:
                message = f"has more than {_MAX_LABELS} entries together with those of the batch"
                raise ValidationFailed("", errors=[FieldError(f"/{name}", "too_many", message)])
        return submit


def _completed(defaults: dict[str, Any], job: Any) -> Any:
    """The job with the defaults where it says nothing. Two levels and no more: deeper down, null is a value."""
    if not isinstance(job, dict):
        return job
    whole = _over(defaults, job)
    if isinstance(defaults.get("input"), dict) and isinstance(job.get("input"), dict):
        whole["input"] = _over(defaults["input"], job["input"])
    return whole


def _over(defaults: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Null takes a default away."""
    kept = {name: value for name, value in defaults.items() if name not in given}
    return kept | {name: value for name, value in given.items() if value is not None or name not in defaults}
