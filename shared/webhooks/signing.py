"""Secrets and signatures of Standard Webhooks 1.0 (symmetric, ``v1``).

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import hmac
import secrets
from base64 import b64encode
from collections.abc import Sequence

#: The standard asks for 24 to 64.
_SECRET_BYTES = 32


def new_secret() -> bytes:
    return secrets.token_bytes(_SECRET_BYTES)


def shown(secret: bytes) -> str:
    """A secret as a client is given it, once."""
    return f"whsec_{b64encode(secret).decode()}"


def headers(message: str, timestamp: int, body: bytes, keys: Sequence[bytes]) -> dict[str, str]:
    """The three headers that let a receiver check a message.

    Args:
        message: the same whenever this message is sent.
        timestamp: when this sending begins, seconds since 1970.
        keys: every secret that is valid now.
    """
    signed = b"%s.%d.%s" % (message.encode(), timestamp, body)
    signatures = (b64encode(hmac.digest(key, signed, "sha256")).decode() for key in keys)
    return {
        "webhook-id": message,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }
