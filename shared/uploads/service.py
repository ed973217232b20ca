"""Receiving, looking at and deleting uploads. All within one project; another's ids are simply not found."""

from __future__ import annotations

import asyncio
import contextlib
from hashlib import sha256
from typing import Any, NoReturn
from uuid import UUID

from sqlalchemy import Row
from sqlalchemy.exc import IntegrityError
from uuid_utils.compat import uuid7

from shared import storage
from shared.config import Settings
from shared.db import Database, within
from shared.errors import (
    Conflict,
    FieldError,
    NotFound,
    PayloadTooLarge,
    Unavailable,
    UnsupportedMediaType,
    ValidationFailed,
)
from shared.providers.catalog import catalog
from shared.providers.images import NotAnImageError, UnknownImageError
from shared.providers.input_images import TAIL_BYTES, Header, check_end, read_header
from shared.uploads import queries

#: An upload that is not complete after so long was given up by whoever received it; longer than any may take.
_ABANDONED_SECONDS = 3600.0
#: Slices that one process writes at once: the other connections are for everybody else.
_WRITERS = 2
#: Of two that complete the same content at the same moment, one looks again and finds the other's.
_TRIES = 3


class UploadService:
    """One a process."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self.database = database
        self.max_bytes = settings.max_upload_bytes
        self.keep_seconds = settings.upload_keep_hours * 3600
        self.patience = settings.database_statement_timeout + 1
        self.writers = asyncio.Semaphore(_WRITERS)

    def receive(self, project_id: UUID) -> Receiving:
        """Begins to receive a file. Nothing is stored before it is known to be a picture."""
        return Receiving(self, project_id)

    async def get(self, project_id: UUID, upload_id: UUID | None) -> Row[Any]:
        """Raises: NotFound."""

        async def read() -> Row[Any] | None:
            async with self.database.transaction() as db:
                return (await queries.find(db, project_id, [upload_id])).get(upload_id) if upload_id else None

        row = await within(self.patience, read())
        if row is None:
            raise _not_found()
        return row

    async def delete(self, project_id: UUID, upload_id: UUID | None) -> None:
        """Deletes it and its bytes.

        Raises:
            NotFound: there is none.
            Conflict: a job refers to it.
        """

        async def write() -> None:
            async with self.database.transaction() as db:
                if upload_id is None or not await queries.lock(db, project_id, upload_id):
                    raise _not_found()
                if job_id := await queries.user_of(db, upload_id):
                    raise Conflict(
                        f"The job {job_id} refers to it; delete its jobs first. It goes by itself once there are none.",
                        code="upload_in_use",
                    )
                await queries.delete(db, upload_id)

        await within(self.patience, write())


class Receiving:
    """One file while it comes: a slice of it is in memory, the slices before it are stored.

    Whoever gives up calls :meth:`abandon`; who dies leaves rows that are pruned.
    """

    def __init__(self, service: UploadService, project_id: UUID) -> None:
        self._service = service
        self._project_id = project_id
        self._id = uuid7()
        self._buffer = bytearray()
        self._tail = b""
        self._hash = sha256()
        self._header: Header | None = None
        self._stored = 0
        self.size = 0

    async def write(self, data: bytes) -> None:
        """Takes what came next.

        Raises:
            PayloadTooLarge: it is over the limit.
            UnsupportedMediaType: it is no picture that a model takes.
            ValidationFailed: a picture, and not one that may be used.
        """
        self.size += len(data)
        if self.size > self._service.max_bytes:
            raise PayloadTooLarge(f"The file is over the limit of {self._service.max_bytes:,} bytes.")
        self._buffer += data
        while len(self._buffer) >= storage.SLICE_BYTES:
            await self._flush()

    async def complete(self, *, filename: str | None, digest: str | None) -> tuple[Row[Any], bool]:
        """The upload, and whether it is new: the same content is stored once for each project.

        Args:
            digest: the SHA-256 that the client expects, in hexadecimal.

        Raises:
            ValidationFailed: it is empty, cut off, or not what the client expects.
        """
        if self._buffer:
            await self._flush()
        if self._header is None:
            raise _invalid("/file", "empty", "is empty")
        try:
            check_end(self._header, self._tail, self.size)
        except NotAnImageError as error:
            raise _invalid("/file", "invalid_image", str(error)) from None
        found = self._hash.hexdigest()
        if digest is not None and digest != found:
            raise _invalid(
                "/sha256", "checksum_mismatch", f"is not that of the {self.size:,} bytes that came: {found}"
            )
        facts = {
            "filename": filename,
            "media_type": self._header.media_type,
            "byte_size": self.size,
            "sha256": self._hash.digest(),
            "width": self._header.width,
            "height": self._header.height,
        }
        return await within(self._service.patience, self._complete(facts))

    async def abandon(self) -> None:
        """Deletes what was stored; where that fails, pruning does it."""
        self._buffer.clear()
        if self._stored:
            with contextlib.suppress(Exception):
                await within(self._service.patience, self._discard())

    async def _flush(self) -> None:
        """Stores the next slice."""
        data = bytes(memoryview(self._buffer)[: storage.SLICE_BYTES])
        del self._buffer[: storage.SLICE_BYTES]
        if self._header is None:
            self._header = await asyncio.to_thread(_header_of, data)
        await asyncio.to_thread(self._hash.update, data)
        self._tail = (self._tail + data)[-TAIL_BYTES:]
        async with self._service.writers:
            await within(self._service.patience, self._store(data))

    async def _store(self, data: bytes) -> None:
        async with self._service.database.transaction() as db:
            if not self._stored:
                await queries.begin(db, self._id, self._project_id, patience=_ABANDONED_SECONDS)
            await storage.write_chunk(db, self._id, self._project_id, self._stored, data)
        self._stored += 1

    async def _complete(self, facts: dict[str, Any]) -> tuple[Row[Any], bool]:
        keep = self._service.keep_seconds
        for _ in range(_TRIES):
            with contextlib.suppress(IntegrityError):
                async with self._service.database.transaction() as db:
                    same = await queries.keep_longer(db, self._project_id, facts["sha256"], keep=keep)
                    if same is not None:
                        await queries.discard(db, self._id)
                        return same, False
                    row = await queries.complete(db, self._id, facts, keep=keep)
                    if row is not None:
                        return row, True
        raise Unavailable("The upload could not be completed. Nothing was stored; try again.", retry_after=1)

    async def _discard(self) -> None:
        async with self._service.database.transaction() as db:
            await queries.discard(db, self._id)


def allowed_types() -> list[str]:
    """The media types that at least one model takes."""
    return sorted(
        {kind for model in catalog().values() if model.image for kind in model.image.input_media_types}
    )


def _header_of(start: bytes) -> Header:
    """Raises: UnsupportedMediaType, ValidationFailed."""
    try:
        header = read_header(start)
    except UnknownImageError as error:
        _refuse_type(str(error))
    except NotAnImageError as error:
        raise _invalid("/file", "invalid_image", str(error)) from None
    if header.media_type not in allowed_types():
        _refuse_type(f"is {header.media_type}")
    return header


def _refuse_type(what: str) -> NoReturn:
    raise UnsupportedMediaType(
        f"The file {what}; send one of: {', '.join(allowed_types())}.", code="unsupported_image_type"
    )


def _invalid(pointer: str, code: str, message: str) -> ValidationFailed:
    return ValidationFailed(
        f"The upload is not allowed: {pointer[1:]} {message}.", errors=[FieldError(pointer, code, message)]
    )


def _not_found() -> NotFound:
    return NotFound("There is no such upload in this project; it may have expired.", code="upload_not_found")
