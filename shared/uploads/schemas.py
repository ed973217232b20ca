"""What goes over the wire about uploads."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, Field
from sqlalchemy import Row


class UploadView(BaseModel):
    """A file that jobs may refer to by its id."""

    id: UUID
    filename: str | None = Field(description="As the client called it; it means nothing.")
    media_type: str = Field(
        description="What the bytes are, whatever they were declared as.", examples=["image/png"]
    )
    byte_size: int
    sha256: str = Field(description="Of the bytes, in hexadecimal.")
    width: int | None = Field(description="Null where the file's beginning does not say.")
    height: int | None
    created_at: datetime
    expires_at: datetime = Field(
        description="It is kept until then, and for as long as a job refers to it. The same file, uploaded again, "
        "moves it on."
    )
    url: str = Field(description="Where this is.")
    content_url: str = Field(description="Where the bytes are.")


def view(row: Row[Any], public_url: str) -> dict[str, Any]:
    """A row as ``UploadView``."""
    url = f"{public_url}/api/v1/uploads/{row.id}"
    return {
        "id": row.id,
        "filename": row.filename,
        "media_type": row.media_type,
        "byte_size": row.byte_size,
        "sha256": row.sha256.hex(),
        "width": row.width,
        "height": row.height,
        "created_at": row.created_at,
        "expires_at": row.expires_at,
        "url": url,
        "content_url": f"{url}/content",
    }
