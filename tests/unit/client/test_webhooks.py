"""Deliveries are believed only if they are signed with the secret and are young. The example is the standard's own."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime

import pytest

from shared.client import ConfigurationError, Delivery, WebhookInvalid, WebhookVerifier

#: https://github.com/standard-webhooks/standard-webhooks: the example of the specification's libraries.
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ID, TIME = "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330
BODY = b'{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
EVENT = json.dumps(
    {"type": "job.succeeded", "timestamp": "2026-11-25T17:00:00Z", "data": {"job_id": "1"}}
).encode()


def signed(body: bytes, secret: str = SECRET, at: int = TIME) -> dict[str, str]:
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.digest(key, f"{ID}.{at}.".encode() + body, hashlib.sha256)
    signature = f"v1,{base64.b64encode(digest).decode()}"
    return {"Webhook-Id": ID, "Webhook-Timestamp": str(at), "Webhook-Signature": signature}


def verify(body: bytes, headers: dict[str, str], now: float = TIME, *secrets: str) -> Delivery:
    return WebhookVerifier(*(secrets or (SECRET,))).verify(body, headers, now=now)


def test_the_signature_is_the_standards() -> None:
    assert signed(BODY)["Webhook-Signature"] == SIGNATURE


def test_a_genuine_delivery_is_given_with_its_id() -> None:
    delivery = verify(EVENT, signed(EVENT))
    assert (delivery.id, delivery.type, delivery.data) == (ID, "job.succeeded", {"job_id": "1"})
    assert delivery.timestamp == datetime(2026, 11, 25, 17, tzinfo=UTC)


def test_while_secrets_change_either_will_do_and_so_will_either_signature() -> None:
    other = "whsec_" + base64.b64encode(b"another secret of 24 b..").decode()
    verify(EVENT, signed(EVENT, other), TIME, SECRET, other)
    headers = signed(EVENT)
    headers["Webhook-Signature"] = (
        f"v1a,x v1,%% {signed(EVENT, other)['Webhook-Signature']} {headers['Webhook-Signature']}"
    )
    verify(EVENT, headers)


@pytest.mark.parametrize("age", [-301, 301, 86_400])
def test_an_old_one_and_one_of_the_future_are_refused(age: int) -> None:
    with pytest.raises(WebhookInvalid, match="time"):
        verify(EVENT, signed(EVENT), TIME + age)
    verify(EVENT, signed(EVENT), TIME + 299)


@pytest.mark.parametrize(
    "change",
    [
        {"Webhook-Id": "another"},
        {"Webhook-Timestamp": str(TIME + 1)},
        {"Webhook-Timestamp": "1e9"},
        {"Webhook-Signature": "v1,"},
        {"Webhook-Signature": ""},
        {"Webhook-Signature": "v1"},
        {"Webhook-Signature": f"v2,{SIGNATURE[3:]}"},
        {"Webhook-Signature": "v1," + 200 * "A "},
    ],
)
def test_what_was_changed_is_refused(change: dict[str, str]) -> None:
    with pytest.raises(WebhookInvalid):
        verify(EVENT, signed(EVENT) | change)


def test_another_body_or_no_event_is_refused() -> None:
    with pytest.raises(WebhookInvalid, match="no signature"):
        verify(EVENT + b" ", signed(EVENT))
    for body in (b"", b"[]", b"{}", b"\xff", BODY):
        with pytest.raises(WebhookInvalid, match="not an event"):
            verify(body, signed(body))


def test_headers_that_are_missing_are_named() -> None:
    with pytest.raises(WebhookInvalid, match="webhook-timestamp, webhook-signature"):
        verify(EVENT, {"webhook-id": ID})


@pytest.mark.parametrize("secret", ["", "whsec_", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_tief-geheim!"])
def test_what_is_no_secret_is_refused_and_not_shown(secret: str) -> None:
    with pytest.raises(ConfigurationError, match="whsec_, and base64") as caught:
        WebhookVerifier(secret)
    assert "geheim" not in str(caught.value)
    with pytest.raises(ConfigurationError):
        WebhookVerifier()
    assert SECRET[6:] not in repr(WebhookVerifier(SECRET))
