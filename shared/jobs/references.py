"""Input pictures that a submit only names: uploads, which must be there, and URLs, which must be ones that may be called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection
from uuid_utils.compat import uuid7

from shared.addresses import Policy, RefusedUrlError, parse
from shared.artifacts import queries as artifacts
from shared.batched import batched
from shared.db import Database
from shared.errors import FieldError, ValidationFailed
from shared.kinds.base import INPUT_URLS, Accepted, InputImage, InputUpload
from shared.providers.catalog import ModelSpec
from shared.uploads import queries as uploads

#: Uploads that one statement holds, and references that one inserts, at most.
_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class Named:
    """What one job's input names, to be looked at by itself or together with that of other jobs."""

    model: ModelSpec
    uploads: Sequence[InputUpload]
    #: Of the pictures that came along.
    inline_bytes: int
    #: URLs that may not be called.
    refused: Sequence[FieldError]


def named(policy: Policy, model: ModelSpec, accepted: Accepted) -> Named:
    """Looks at the URLs; nothing is fetched, and no upload looked up."""
    return Named(
        model,
        [image for image in accepted.images if isinstance(image, InputUpload)],
        sum(len(image.data) for image in accepted.images if isinstance(image, InputImage)),
        _refused_urls(accepted, policy),
    )


async def check(database: Database, project_id: UUID, named: Named) -> None:
    """Looks the uploads up; nothing is fetched.

    Raises:
        ValidationFailed: an upload is not there or not fit for the model, or a URL may not be called.
    """
    [errors] = await check_all(database, project_id, [named])
    if errors:
        raise ValidationFailed(f"The input is not possible with {named.model.alias}.", errors=errors)


async def check_all(database: Database, project_id: UUID, inputs: Sequence[Named]) -> list[list[FieldError]]:
    """What is wrong with each of these inputs. Their uploads are looked up in one statement, each once."""
    ids = {image.upload_id for each in inputs for image in each.uploads}
    found: dict[UUID, Row[Any]] = {}
    if ids:
        async with database.reading() as db:
            found = await uploads.find(db, project_id, list(ids))
    return [[*each.refused, *_unfit_uploads(each, found)] for each in inputs]


async def refer(
    db: AsyncConnection, project_id: UUID, wanted: Sequence[tuple[UUID, InputUpload]]
) -> set[UUID]:
    """Notes which jobs use which uploads. Answers the ids of those that went since they were looked up; then nothing is noted.

    All are held first, in the order of ids: none can go meanwhile, and two that want the same do not wait for each other.
    """
    ids = {image.upload_id for _, image in wanted}
    held: set[UUID] = set()
    for some in batched(sorted(ids), _AT_ONCE):
        held |= await uploads.hold(db, project_id, some)
    if gone := ids - held:
        return gone
    for part in batched(wanted, _AT_ONCE):
        rows = [(uuid7(), job_id, image.position, image.upload_id) for job_id, image in part]
        await artifacts.refer(db, project_id, rows)
    return set()


def missing(image: InputUpload) -> FieldError:
    """The project has no such upload."""
    message = (
        f"there is no upload {image.upload_id} in this project; it may have expired: upload the file again"
    )
    return FieldError(_pointer(image), "not_found", message)


def _refused_urls(accepted: Accepted, policy: Policy) -> list[FieldError]:
    errors = []
    for position, url in accepted.stored.get(INPUT_URLS, {}).items():
        try:
            parse(url, policy)
        except RefusedUrlError as error:
            errors.append(FieldError(f"/input/input_images/{position}/url", "refused", str(error)))
    return errors


def _unfit_uploads(named: Named, found: dict[UUID, Row[Any]]) -> list[FieldError]:
    if not named.uploads:
        return []
    assert named.model.image is not None
    can = named.model.image
    errors = []
    total = named.inline_bytes
    for image in named.uploads:
        row = found.get(image.upload_id)
        if row is None:
            errors.append(missing(image))
            continue
        total += row.byte_size
        if row.media_type not in can.input_media_types:
            message = f"is {row.media_type}; use one of: {', '.join(can.input_media_types)}"
            errors.append(FieldError(_pointer(image), "invalid_image", message))
        if row.byte_size > can.max_input_image_bytes:
            message = f"has {row.byte_size:,} bytes; at most {can.max_input_image_bytes:,} are allowed"
            errors.append(FieldError(_pointer(image), "too_large", message))
    if total > can.max_input_total_bytes:
        message = f"hold {total:,} bytes together; at most {can.max_input_total_bytes:,} are allowed"
        errors.append(FieldError("/input/input_images", "too_large", message))
    return errors


def _pointer(image: InputUpload) -> str:
    return f"/input/input_images/{image.position}/upload_id"
