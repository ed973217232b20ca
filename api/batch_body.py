"""Reading a batch: one JSON object, or JSONL with a job on each line; job by job, whatever the size."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import UUID

import orjson
from fastapi import Request
from pydantic import ValidationError

from api import body, objects
from api.budget import Room
from api.routers.jobs import refuse_large, text_limit
from shared.batches.intake import Intake, Place
from shared.batches.schemas import MAX_JOBS, BatchOptions
from shared.config import Settings
from shared.errors import (
    MAX_ERRORS,
    BadRequest,
    FieldError,
    PayloadTooLarge,
    ValidationFailed,
    field_error,
    field_errors,
)
from shared.idempotency.claim import canonical
from shared.jobs.service import JobService
from shared.steps import Steps

#: What JSONL is declared as; it has no registered type.
LINES = frozenset(
    {
        "application/jsonl",
        "application/x-ndjson",
        "application/ndjson",
        "application/x-jsonlines",
        "application/jsonlines",
    }
)
#: Fields and elements of a whole batch, for which its frame is looked through: fifty of each job.
_MAX_PARTS = 50 * MAX_JOBS


#: Parameters of a batch that is JSONL.
QUERY = ("priority", "tag", "metadata")


class Digest(Protocol):
    """Of ``hashlib``."""

    def update(self, data: bytes, /) -> None: ...


@dataclass(slots=True)
class Reader:
    """Reads one request's batch.

    Args:
        room: holds what the body takes in memory.
        digest: takes in what makes the request the same as another; None: nobody asks.
    """

    request: Request
    settings: Settings
    jobs: JobService
    room: Room
    digest: Digest | None = None
    steps: Steps = field(default_factory=Steps)

    async def read(self, project_id: UUID) -> Intake:
        """The jobs, checked. What is wrong with them is in the intake.

        Raises:
            AppError: the body cannot be read, or is no batch.
        """
        with self.steps:
            if body.media_type_of(self.request) in LINES:
                intake = await self._read_lines(project_id)
            else:
                intake = await self._read_object(project_id)
            await intake.settle(self.jobs)
        if not intake.total and not intake.errors:
            raise _refused(FieldError("/jobs", "too_short", "has no job; at least one is needed"))
        return intake

    async def _read_object(self, project_id: UUID) -> Intake:
        data = await body.read(self.request, self.settings.max_body_bytes, self.room)
        if not data:
            raise BadRequest("The body is empty; a JSON object is needed.", code="invalid_json")
        if await body.worked_on(len(data), body.has_more_parts, data, _MAX_PARTS):
            message = f"has more than {_MAX_PARTS:,} fields and elements; send it in parts, or as JSONL"
            raise _refused(FieldError("", "too_large", message))
        cut = await objects.cut(data, self.steps)
        options, items = _read_frame(cut.frame, self.request)
        await self._note(options.model_dump(mode="json"))
        intake = Intake(project_id, options, self.request.scope["request_id"])
        for index, item in enumerate(items):
            number = cut.number(item)
            if number is None:
                await self._refuse(intake, Place(index), item)
                continue
            start, stop = cut.objects[number]
            try:
                await self._take(intake, Place(index), data[start:stop])
            except orjson.JSONDecodeError as error:
                raise objects.invalid(data, start + objects.place(error), error) from None
        return intake

    async def _read_lines(self, project_id: UUID) -> Intake:
        options = _query_options(self.request)
        await self._note(options.model_dump(mode="json"))
        intake, index = Intake(project_id, options, self.request.scope["request_id"]), 0
        async for number, line in self._lines():
            if index == MAX_JOBS:
                await body.drain(self.request)
                raise _too_many()
            place = Place(index, number)
            index += 1
            try:
                await self._take(intake, place, line)
            except orjson.JSONDecodeError as error:
                await self._note(error.msg, line)
                message = f"is not JSON: {body.reason(error)} at column {error.colno}"
                intake.refuse(place, FieldError("", "invalid_json", message))
        return intake

    async def _lines(self) -> AsyncIterator[tuple[int, bytes]]:
        """Number and bytes of each line that is not blank, once it is whole."""
        number, begun = 1, [b""]
        async for chunk in body.chunks(self.request, self.settings.max_body_bytes, self.room):
            first, *rest = chunk.split(b"\n")
            begun.append(first)
            for following in rest:
                if line := b"".join(begun).strip():
                    yield number, line
                number, begun = number + 1, [following]
        if line := b"".join(begun).strip():
            yield number, line

    async def _take(self, intake: Intake, place: Place, data: bytes) -> None:
        """Raises: orjson.JSONDecodeError."""
        if self.steps.due:
            await self.steps.rest()
        try:
            job = await body.worked_on(len(data), body.loads, data)
        except ValidationFailed as error:  # of too many parts
            await self._note(None, data)
            intake.refuse(place, *error.errors)
            return
        if not isinstance(job, dict):
            await self._refuse(intake, place, job)
            return
        await self._note(job, data)
        if intake.full_of_errors:
            return
        try:
            refuse_large(job, len(data), text_limit(self.settings))
        except PayloadTooLarge as error:
            intake.refuse(place, FieldError("", "too_large", error.detail))
        else:
            await intake.take(self.jobs, job, place)

    async def _refuse(self, intake: Intake, place: Place, item: Any) -> None:
        await self._note(item)
        intake.refuse(place, FieldError("", "dict_type", "must be a JSON object: a job"))

    async def _note(self, value: Any, data: bytes = b"") -> None:
        if self.digest is not None:
            await body.worked_on(len(data), self._digest_of, self.digest, value, data)

    @staticmethod
    def _digest_of(digest: Digest, value: Any, data: bytes) -> None:
        digest.update(canonical(value, data) if value is not None else data)
        digest.update(b"\n")


def _read_frame(frame: Any, request: Request) -> tuple[BatchOptions, list[Any]]:
    """The options and the list of jobs of a batch that is one JSON object."""
    if given := [name for name in QUERY if name in request.query_params]:
        message = "is for JSONL; in a JSON object it is a field"
        raise _refused(*(FieldError(f"?{name}", "not_allowed", message) for name in given))
    if not isinstance(frame, dict):
        raise _refused(FieldError("", "dict_type", 'must be a JSON object, such as {"jobs": […]}'))
    items = frame.pop("jobs", None)
    if not isinstance(items, list):
        raise _refused(FieldError("/jobs", "list_type", "is required: a JSON array of jobs"))
    if len(items) > MAX_JOBS:
        raise _too_many()
    try:
        return BatchOptions.model_validate(frame), items
    except ValidationError as error:
        raise _refused(*field_errors(error)) from None


def _query_options(request: Request) -> BatchOptions:
    """What stands in the query of a batch that is JSONL."""
    query = request.query_params
    given: dict[str, Any] = {"tags": query.getlist("tag"), "metadata": {}}
    if "priority" in query:
        given["priority"] = query["priority"]
    for pair in query.getlist("metadata"):
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise _refused(FieldError("?metadata", "not_a_pair", "must be key=value"))
        given["metadata"][key] = value
    try:
        return BatchOptions.model_validate(given)
    except ValidationError as error:
        raise _refused(
            *(
                field_error(part, f"?{str(part['loc'][0]).removesuffix('s')}")
                for part in error.errors(include_url=False, include_input=False)[:MAX_ERRORS]
            )
        ) from None


def _refused(*errors: FieldError) -> ValidationFailed:
    return ValidationFailed("The batch is not allowed; errors names each field.", errors=errors)


def _too_many() -> PayloadTooLarge:
    return PayloadTooLarge(
        f"The batch has more than {MAX_JOBS:,} jobs, which is the most. Nothing was stored; send them in several batches.",
        code="too_many_jobs",
        headers={"Connection": "close"},
    )
