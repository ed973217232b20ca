"""Deliveries of webhooks, checked as the receiver must: Standard Webhooks, https://www.standardwebhooks.com.

Signed is ``<webhook-id>.<webhook-timestamp>.<body>`` with HMAC-SHA256; ``webhook-signature`` holds one or several of
``v1,<base64>``, separated by spaces.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from shared.client.decoding import decode
from shared.client.errors import ConfigurationError, UnexpectedAnswer, WebhookInvalid

_PREFIX = "whsec_"
#: More signatures than this has no delivery that is meant.
_MAX_SIGNATURES = 16
_HEADERS = ("webhook-id", "webhook-timestamp", "webhook-signature")


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A delivery that is genuine.

    Attributes:
        id: names it across tries: a receiver that has seen it already answers 200 and does nothing.
    """

    id: str
    type: str
    timestamp: datetime
    data: Mapping[str, Any]
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


class WebhookVerifier:
    """Knows an endpoint's secrets.

    Args:
        secrets: ``whsec_…``; several while one is being replaced by another.
        tolerance: seconds that the sender's clock and the receiver's may differ, and a delivery may take.

    Raises:
        ConfigurationError: that is no secret. It is never shown.
    """

    def __init__(self, *secrets: str, tolerance: float = 300) -> None:
        if not secrets:
            raise ConfigurationError("no webhook secret was given")
        self._keys = [_key(secret) for secret in secrets]
        self._tolerance = tolerance

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self._keys)} secrets)"

    def verify(self, body: bytes, headers: Mapping[str, str], *, now: float | None = None) -> Delivery:
        """The delivery, if it is genuine.

        Args:
            body: the bytes as they came; JSON that was parsed and written again has another signature.
            headers: of the request, in capitals or not.
            now: seconds since 1970; left out, the clock's.

        Raises:
            WebhookInvalid: its signature is of another secret or body, or its time is too far off.
        """
        given = {name.lower(): value for name, value in headers.items()}
        missing = [name for name in _HEADERS if not given.get(name)]
        if missing:
            raise WebhookInvalid(f"the delivery lacks {', '.join(missing)}")
        delivery_id, timestamp, signatures = (given[name] for name in _HEADERS)
        self._check_signature(f"{delivery_id}.{timestamp}.".encode() + body, signatures.split())
        self._check_time(timestamp, time.time() if now is None else now)
        try:
            return decode(Delivery, {**json.loads(body), "id": delivery_id})
        except (ValueError, TypeError, UnexpectedAnswer):
            raise WebhookInvalid("the delivery is signed, but is not an event of this API") from None

    def _check_signature(self, signed: bytes, signatures: Sequence[str]) -> None:
        """All are compared, so that the time it takes tells nothing."""
        expected = [hmac.digest(key, signed, hashlib.sha256) for key in self._keys]
        given = [_signature(text) for text in signatures[:_MAX_SIGNATURES]]
        if not any([hmac.compare_digest(one, other) for one in given for other in expected]):  # noqa: C419
            raise WebhookInvalid("no signature of the delivery fits the secret and the body")

    def _check_time(self, timestamp: str, now: float) -> None:
        if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 12):
            raise WebhookInvalid("webhook-timestamp is no number of seconds")
        if abs(now - int(timestamp)) > self._tolerance:
            raise WebhookInvalid(
                f"the delivery's time is more than {self._tolerance:g} s off: an old one sent again, or a wrong clock"
            )


def _key(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.strip().removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not secret.strip().startswith(_PREFIX) or not key:
        raise ConfigurationError("a webhook secret begins with whsec_, and base64 follows")
    return key


def _signature(text: str) -> bytes:
    """Of our version; others count as none."""
    version, _, value = text.partition(",")
    try:
        return base64.b64decode(value, validate=True) if version == "v1" else b""
    except (binascii.Error, ValueError):
        return b""
