"""Text on its way from a worker to those who follow its job: best effort, beside what PostgreSQL keeps.

For each attempt whose text is wanted as it is made, a worker publishes every new piece on the job's channel, and keeps
what there is so far under a key of the attempt for a while: who comes late, or has missed a piece, reads that.
Losing all of it costs nobody anything but the wait for the result.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

import orjson

#: Of an attempt's text, so many bytes are kept for those who come late; a model's longest answers have about as many.
MAX_KEPT_BYTES = 256 * 1024
#: A larger piece is not published: who follows reads what is kept.
MAX_DELTA_CHARS = 32 * 1024


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of an attempt's text; ``offset`` counts the characters (Unicode code points) before it."""

    attempt: int
    offset: int
    text: str

    @property
    def end(self) -> int:
        return self.offset + len(self.text)

    def after(self, offset: int) -> Delta:
        """What of it lies beyond an offset."""
        if offset <= self.offset:
            return self
        return Delta(self.attempt, offset, self.text[offset - self.offset :])

    def split(self) -> list[Delta]:
        """The same in pieces of the size that anybody can be expected to take."""
        return [
            Delta(self.attempt, self.offset + start, self.text[start : start + MAX_DELTA_CHARS])
            for start in range(0, len(self.text), MAX_DELTA_CHARS)
        ]

    def pack(self) -> bytes:
        return orjson.dumps((self.attempt, self.offset, self.text))


def unpack(data: bytes) -> Delta:
    """Raises: ValueError: none of ours."""
    match orjson.loads(data):
        case [int(attempt), int(offset), str(text)]:
            return Delta(attempt, offset, text)
    raise ValueError("no delta")


def channel_of(job_id: UUID) -> str:
    return f"plantain:text:{job_id}"


def key_of(job_id: UUID, attempt: int) -> str:
    return f"plantain:text:{job_id}:{attempt}"


def kept_text(data: bytes) -> str:
    """The text of what is kept; its end may be cut within a character."""
    return data.decode("utf-8", "ignore")
