"""Input pictures that a submit only names: uploads, which must be there, and URLs, which must be ones that may be called."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from shared.addresses import Policy, RefusedUrlError, parse
from shared.db import Database
from shared.errors import FieldError, ValidationFailed
from shared.kinds.base import INPUT_URLS, Accepted, InputImage, InputUpload
from shared.providers.catalog import ImageCapabilities, ModelSpec
from shared.uploads import queries as uploads


async def check(
    database: Database, policy: Policy, project_id: UUID, model: ModelSpec, accepted: Accepted
) -> None:
    """Looks the uploads up, and at the URLs; nothing is fetched.

    Raises:
        ValidationFailed: an upload is not there or not fit for the model, or a URL may not be called.
    """
    errors = _refused_urls(accepted, policy)
    wanted = [image for image in accepted.images if isinstance(image, InputUpload)]
    if wanted:
        assert model.image is not None
        errors += await _unfit_uploads(database, project_id, wanted, accepted.images, model.image)
    if errors:
        raise ValidationFailed(f"The input is not possible with {model.alias}.", errors=errors)


def no_upload(images: Sequence[InputUpload]) -> ValidationFailed:
    """The project has none of these uploads."""
    return ValidationFailed(
        "The input names an upload that is not there.", errors=[_missing(image) for image in images]
    )


def _refused_urls(accepted: Accepted, policy: Policy) -> list[FieldError]:
    errors = []
    for position, url in accepted.stored.get(INPUT_URLS, {}).items():
        try:
            parse(url, policy)
        except RefusedUrlError as error:
            errors.append(FieldError(f"/input/input_images/{position}/url", "refused", str(error)))
    return errors


async def _unfit_uploads(
    database: Database,
    project_id: UUID,
    wanted: Sequence[InputUpload],
    images: Sequence[InputImage | InputUpload],
    can: ImageCapabilities,
) -> list[FieldError]:
    async with database.reading() as db:
        found = await uploads.find(db, project_id, [image.upload_id for image in wanted])
    errors = []
    total = sum(len(image.data) for image in images if isinstance(image, InputImage))
    for image in wanted:
        row = found.get(image.upload_id)
        if row is None:
            errors.append(_missing(image))
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


def _missing(image: InputUpload) -> FieldError:
    message = (
        f"there is no upload {image.upload_id} in this project; it may have expired: upload the file again"
    )
    return FieldError(_pointer(image), "not_found", message)


def _pointer(image: InputUpload) -> str:
    return f"/input/input_images/{image.position}/upload_id"
