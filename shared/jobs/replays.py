"""A job again: what was asked for then, with changes."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from shared import storage
from shared.artifacts import queries as artifacts
from shared.errors import FieldError, Gone, ValidationFailed
from shared.jobs.schemas import JobSubmit
from shared.jobs.service import not_found
from shared.kinds.base import INPUT_URLS

# Neither scheduled_at nor expires_at: those were times of then. Nor webhook_url: who runs a job again may not be who was to be told.
_COLUMNS = """
    kind, model, priority, input, max_attempts, timeout_seconds AS timeout, on_unknown, keep_seconds AS keep_for,
    stream, tags, metadata
"""
_SOURCE = text(f"SELECT {_COLUMNS} FROM jobs WHERE id = :id AND project_id = :project_id")
_SOURCES = text(f"""
    SELECT id, {_COLUMNS} FROM (
        SELECT jobs.*, sum(pg_column_size(input)) OVER (ORDER BY place) - pg_column_size(input) AS before
        FROM jobs JOIN unnest(CAST(:ids AS uuid[])) WITH ORDINALITY AS wanted(id, place) USING (id)
        WHERE project_id = :project_id
    ) AS sized WHERE before < :bytes
""")


async def request_of(
    db: AsyncConnection, project_id: UUID, job_id: UUID, *, with_images: bool
) -> dict[str, Any]:
    """The submit that would make the job again, its pictures in base64, or as it named them.

    Raises:
        NotFound: no such job in the project.
        Gone: the bytes of its pictures have been pruned.
    """
    row = (await db.execute(_SOURCE, {"id": job_id, "project_id": project_id})).one_or_none()
    if row is None:
        raise not_found(job_id)
    return await completed(db, job_id, dict(row._mapping), with_images=with_images)  # noqa: SLF001  SQLAlchemy's documented name


async def sources(
    db: AsyncConnection, project_id: UUID, ids: Sequence[UUID], *, most_bytes: int
) -> dict[UUID, dict[str, Any]]:
    """What the first of these jobs asked for, by id: as many as hold so many bytes, and one at least. See ``completed``."""
    rows = await db.execute(_SOURCES, {"ids": list(ids), "project_id": project_id, "bytes": most_bytes})
    found = [dict(row._mapping) for row in rows]  # noqa: SLF001  as above
    return {source.pop("id"): source for source in found}


async def completed(
    db: AsyncConnection, job_id: UUID, request: dict[str, Any], *, with_images: bool
) -> dict[str, Any]:
    """The request with the pictures that came with it, in base64, or as it named them.

    Raises:
        Gone: the bytes of its pictures have been pruned.
    """
    request["input"] = value = dict(request["input"])
    urls = value.pop(INPUT_URLS, {})
    if with_images:
        images: dict[int, dict[str, str]] = {int(position): {"url": url} for position, url in urls.items()}
        for image in await artifacts.inputs(db, job_id):
            uploaded = {"upload_id": str(image.upload_id)} if image.upload_id else None
            images[image.position] = uploaded or await _encoded(db, image.id)
        if images:
            value["input_images"] = [images[position] for position in sorted(images)]
    return request


async def _encoded(db: AsyncConnection, artifact_id: UUID) -> dict[str, str]:
    try:
        data = await storage.read_all(db, artifact_id)
    except LookupError:
        raise Gone(
            "The job's input pictures are no longer there; give others as input.input_images, or null for none."
        ) from None
    return {"data": b64encode(data).decode()}


def changed(request: dict[str, Any], changes: Any) -> Any:
    """The request with the changes of a JSON merge patch (RFC 7396): null takes a field's value back to its default.

    Raises:
        ValidationFailed: another kind, which would be another job.
    """
    if isinstance(changes, dict) and changes.get("kind", request["kind"]) != request["kind"]:
        message = f"a replay is of the same kind, {request['kind']}; leave it out"
        errors = [FieldError("/kind", "not_allowed", message, [request["kind"]])]
        raise ValidationFailed("The job is not allowed; errors names each field.", errors=errors)
    result = _patched(request, changes)
    if isinstance(changes, dict):
        # A field that there is none of stays, for the validation to refuse: a misspelt one must not look like no change.
        result |= dict.fromkeys(changes.keys() - JobSubmit.model_fields.keys())
    return result


def brings_images(changes: Any) -> bool:
    """Whether the changes say which input pictures there are, so that those of the source are not needed."""
    value = changes.get("input") if isinstance(changes, dict) else None
    return isinstance(value, dict) and "input_images" in value


def _patched(target: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = _patched(result.get(name), value)
    return result
