"""Jobs that were checked and are not stored yet, and how they are stored."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection
from uuid_utils.compat import uuid7

from shared.artifacts import queries as artifacts
from shared.checkpoints import checkpoint
from shared.coalesce import Coalescer
from shared.db import Database, is_unavailable, within
from shared.idempotency import queries as idempotency
from shared.idempotency.claim import Answer, AnswerOf, Claim
from shared.jobs import queries
from shared.jobs.queries import NewJob
from shared.jobs.references import no_upload
from shared.kinds.base import InputImage, InputUpload


@dataclass(frozen=True, slots=True)
class Draft:
    """A job as ``queries.submit`` takes it, and the pictures that come with it."""

    row: dict[str, Any]
    images: Sequence[InputImage | InputUpload] = ()


@dataclass(frozen=True, slots=True)
class Keyed:
    """A draft that came under an idempotency key, and how its answer is made."""

    draft: Draft
    claim: Claim
    answer_of: AnswerOf


class KeyedSubmits:
    """Stores jobs together with the answers that their keys give from then on: both or neither."""

    def __init__(self, database: Database, patience: float) -> None:
        self._database = database
        self._patience = patience
        self._batches: Coalescer[Keyed, tuple[NewJob, Answer]] = Coalescer(
            self._store, lanes=2, max_batch=100, is_shared_fault=is_unavailable, patience=patience
        )

    async def __call__(self, keyed: Keyed) -> tuple[NewJob, Answer]:
        """The stored job and its answer.

        Raises:
            KeyTaken: the key has an answer already; nothing was stored.
        """
        if keyed.draft.images:
            return await within(self._patience, self._store_with_images(keyed))
        return await self._batches(keyed)

    async def _store(self, batch: Sequence[Keyed]) -> Sequence[tuple[NewJob, Answer]]:
        async with self._database.transaction() as db:
            stored = await queries.submit(db, [keyed.draft.row for keyed in batch])
            return await _keep(db, batch, [stored[keyed.draft.row["id"]] for keyed in batch])

    async def _store_with_images(self, keyed: Keyed) -> tuple[NewJob, Answer]:
        digests = await digests_of(keyed.draft.images)
        async with self._database.transaction() as db:
            row = await store_with_images(db, keyed.draft, digests)
            (kept,) = await _keep(db, [keyed], [row])
        return kept


async def digests_of(images: Sequence[InputImage | InputUpload]) -> list[bytes]:
    """SHA-256 of each picture, worked out on a thread: before a transaction begins, not in it. An upload's is known."""
    return await asyncio.to_thread(
        lambda: [
            artifacts.digest_of(image.data) if isinstance(image, InputImage) else b"" for image in images
        ]
    )


async def store_with_images(db: AsyncConnection, draft: Draft, digests: Sequence[bytes]) -> NewJob:
    """Inserts one job and its pictures.

    Raises:
        ValidationFailed: an upload is no longer there.
    """
    job_id = draft.row["id"]
    stored = (await queries.submit(db, [draft.row]))[job_id]
    await store_images(db, draft.row["project_id"], job_id, draft.images, digests)
    return stored


async def store_images(
    db: AsyncConnection,
    project_id: UUID,
    job_id: UUID,
    images: Sequence[InputImage | InputUpload],
    digests: Sequence[bytes],
) -> None:
    """Inserts the pictures that come with a job; see ``store_with_images``."""
    for image, digest in zip(images, digests, strict=True):
        if isinstance(image, InputUpload):
            found = await artifacts.refer(
                db,
                artifact_id=uuid7(),
                project_id=project_id,
                job_id=job_id,
                position=image.position,
                upload_id=image.upload_id,
            )
            if not found:
                raise no_upload([image])
            continue
        await artifacts.insert(
            db,
            artifact_id=uuid7(),
            project_id=project_id,
            job_id=job_id,
            role="input",
            position=image.position,
            media_type=image.media_type,
            data=image.data,
            digest=digest,
            width=image.width,
            height=image.height,
        )


async def _keep(
    db: AsyncConnection, batch: Sequence[Keyed], rows: Sequence[NewJob]
) -> list[tuple[NewJob, Answer]]:
    answers = [keyed.answer_of(row) for keyed, row in zip(batch, rows, strict=True)]
    await idempotency.keep(db, [(keyed.claim, answer) for keyed, answer in zip(batch, answers, strict=True)])
    for row in rows:
        await checkpoint("inserted", row.id)
    return list(zip(rows, answers, strict=True))
