"""Signatures, against the standard's own library."""

from __future__ import annotations

import time

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from shared.webhooks import signing

BODY = '{"type":"job.succeeded","data":{"prompt":"Plátano 🍌 \\u0000"}}'.encode()


def test_the_standards_own_library_accepts_what_every_valid_secret_signs() -> None:
    old, new, other = (signing.new_secret() for _ in range(3))
    headers = signing.headers("0199-message", int(time.time()), BODY, [new, old])
    assert headers["webhook-signature"].count("v1,") == 2
    for secret in (old, new):
        assert Webhook(signing.shown(secret)).verify(BODY, headers)["type"] == "job.succeeded"
    with pytest.raises(WebhookVerificationError):
        Webhook(signing.shown(other)).verify(BODY, headers)


@pytest.mark.parametrize("changed", ["webhook-id", "webhook-timestamp", "body"])
def test_it_covers_id_time_and_body(changed: str) -> None:
    secret = signing.new_secret()
    now = int(time.time())
    headers = signing.headers("message", now, BODY, [secret])
    assert headers == signing.headers("message", now, BODY, [secret])
    body = BODY
    if changed == "body":
        body = BODY.replace(b"succeeded", b"failed")
    else:
        headers |= {"webhook-id": "another"} if changed == "webhook-id" else {changed: str(now + 1)}
    with pytest.raises(WebhookVerificationError):
        Webhook(signing.shown(secret)).verify(body, headers)


def test_a_secret_is_shown_as_the_standard_wants_it() -> None:
    secret = signing.new_secret()
    assert 24 <= len(secret) <= 64
    assert signing.shown(secret).startswith("whsec_")
    assert signing.new_secret() != secret
