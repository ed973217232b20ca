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
from shared.errors import ValidationFailed
from shared.idempotency import queries as idempotency
from shared.idempotency.claim import Answer, AnswerOf, Claim
from shared.jobs import queries, references
from shared.jobs.queries import NewJob
from shared.jobs.references import Named
from shared.kinds.base import InputImage, InputUpload


@dataclass(slots=True)  # one a job: frozen, it would take thrice as long to make
class Draft:
    """A job as ``queries.submit`` takes it, and the pictures that come with it."""

    row: dict[str, Any]
    images: Sequence[InputImage | InputUpload] = ()
    #: What the input names and nobody has looked up yet.
    unchecked: Named | None = None

    @property
    def inline(self) -> list[InputImage]:
        """The pictures whose bytes came along."""
        return [image for image in self.images if isinstance(image, InputImage)]

    @property
    def uploads(self) -> list[InputUpload]:
        return [image for image in self.images if isinstance(image, InputUpload)]


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
            return await _keep(db, batch, stored)

    async def _store_with_images(self, keyed: Keyed) -> tuple[NewJob, Answer]:
        digests = await digests_of(keyed.draft.inline)
        async with self._database.transaction() as db:
            row = await store_with_images(db, keyed.draft, digests)
            (kept,) = await _keep(db, [keyed], [row])
        return kept


async def digests_of(images: Sequence[InputImage]) -> list[bytes]:
    """SHA-256 of each picture, worked out on a thread: before a transaction begins, not in it."""
    if not images:
        return []
    return await asyncio.to_thread(lambda: [artifacts.digest_of(image.data) for image in images])


async def store_with_images(db: AsyncConnection, draft: Draft, digests: Sequence[bytes]) -> NewJob:
    """Inserts one job and its pictures.

    Raises:
        ValidationFailed: an upload is no longer there.
    """
    job_id = draft.row["id"]
    [stored] = await queries.submit(db, [draft.row])
    project_id = draft.row["project_id"]
    await store_images(db, project_id, job_id, draft.inline, digests)
    gone = await references.refer(db, project_id, [(job_id, image) for image in draft.uploads])
    if gone:
        raise ValidationFailed(
            "The input names an upload that is not there.",
            errors=[references.missing(image) for image in draft.uploads if image.upload_id in gone],
        )
    return stored


async def store_images(
    db: AsyncConnection,
    project_id: UUID,
    job_id: UUID,
    images: Sequence[InputImage],
    digests: Sequence[bytes],
) -> None:
    """Inserts the pictures whose bytes came with a job."""
    for image, digest in zip(images, digests, strict=True):
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
