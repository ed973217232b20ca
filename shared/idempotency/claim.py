"""What names a request that a client may send twice: its key, and the hash by which it is known again."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any
from uuid import UUID

import orjson

from shared.errors import BadRequest, FieldError

HEADER = "Idempotency-Key"
#: How long an answer is kept at least.
KEPT_SECONDS = 7 * 24 * 3600.0
_MAX_LENGTH = 255
_VISIBLE = re.compile(rf"[!-~]{{1,{_MAX_LENGTH}}}")
#: A string as in RFC 9651, 3.3.3: what is between its quotes, in which only these two are escaped.
_QUOTED = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')


@dataclass(slots=True)  # one a job: frozen, it would take thrice as long to make
class Answer:
    """A response as it is kept: whoever comes again gets the same."""

    status: int
    headers: dict[str, str]
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Claim:
    """One request under its key.

    Attributes:
        key: one name within the project, whichever API key was used.
        fingerprint: SHA-256 of method, path and body; see ``fingerprint``.
    """

    project_id: UUID
    key: str
    fingerprint: bytes

    @property
    def name(self) -> tuple[UUID, str]:
        return self.project_id, self.key


class KeyTaken(Exception):
    """Another request has, or is about to have, an answer under the key: this transaction must not commit."""


#: Makes the answer of what was stored, inside its transaction: it must not wait for anything.
AnswerOf = Callable[[Any], Answer]


def key_of(headers: list[str]) -> str:
    """The key that a request's headers of this name give: quoted (RFC 9651) or bare, the same either way.

    Raises:
        BadRequest: none of 1 to 255 visible ASCII characters, or more than one header.
    """
    text = headers[0].strip() if len(headers) == 1 else ""
    if text.startswith('"'):
        quoted = _QUOTED.fullmatch(text)
        text = re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else ""
    if not _VISIBLE.fullmatch(text):
        message = (
            f'must be one header of 1 to {_MAX_LENGTH} visible ASCII characters, such as "8e03978e-40d5"'
        )
        raise BadRequest(
            f"The header {HEADER} cannot be read: it {message}.",
            code="invalid_idempotency_key",
            errors=[FieldError(HEADER, "invalid", message)],
        )
    return text


def fingerprint(method: str, path: str, data: bytes, parsed: Any) -> bytes:
    """By what two requests are the same: method, path, and the body's JSON value.

    The order of members, white space and the way in which characters are escaped make no difference; ``7`` and
    ``7.0`` do.

    Args:
        data: the body as it came.
        parsed: what it says.
    """
    return sha256(b"%s %s\n%s" % (method.encode(), path.encode(), canonical(parsed, data))).digest()


def canonical(parsed: Any, data: bytes) -> bytes:
    """A JSON value in the one form that all ways of writing it have in common.

    Args:
        data: as which it came.
    """
    try:
        return orjson.dumps(parsed, option=orjson.OPT_SORT_KEYS)
    except TypeError:  # nested deeper than anything that is allowed: it is about to be refused
        return data
