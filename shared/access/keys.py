"""What an API key looks like: ``pln_<prefix>_<secret>``, of which only prefix and hash are kept."""

from __future__ import annotations

import re
import secrets
from hashlib import sha256

_FORM = re.compile(r"pln_([a-z2-7]{8})_[A-Za-z0-9_-]{43}")
_NAMED = re.compile(r"(?:pln_)?([a-z2-7]{8})")
_PREFIX_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"


def new_key() -> str:
    """A fresh key with 256 random bits."""
    prefix = "".join(secrets.choice(_PREFIX_ALPHABET) for _ in range(8))
    return f"pln_{prefix}_{secrets.token_urlsafe(32)}"


def prefix_of(key: str) -> str | None:
    """The readable part; None where the text has not the form of a key."""
    match = _FORM.fullmatch(key)
    return match[1] if match else None


def prefix_in(text: str) -> str | None:
    """The prefix in a whole key, in ``pln_<prefix>``, or alone; None where it is none of these."""
    match = _NAMED.fullmatch(text)
    return match[1] if match else prefix_of(text)


def hash_of(key: str) -> bytes:
    """SHA-256: enough for 256 random bits, and cheap on every request."""
    return sha256(key.encode()).digest()
