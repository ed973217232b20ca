from __future__ import annotations

import asyncio

import httpx
import pytest

from shared.providers.base import PermanentError, ProviderError, RetryableError, UnknownOutcomeError
from shared.providers.transport import guarded

KEY = "AIzaSyCANARY0123456789"


@pytest.mark.parametrize(
    ("error", "before", "after"),
    [
        (httpx.ConnectError("refused"), RetryableError, UnknownOutcomeError),
        (httpx.ReadError("reset"), RetryableError, UnknownOutcomeError),
        (httpx.RemoteProtocolError("closed"), RetryableError, UnknownOutcomeError),
        (httpx.ReadTimeout("slow"), RetryableError, UnknownOutcomeError),
        (TimeoutError(), RetryableError, UnknownOutcomeError),
        (ConnectionResetError("reset"), RetryableError, UnknownOutcomeError),
        (httpx.LocalProtocolError(f"Illegal header value {KEY}"), PermanentError, PermanentError),
        (ValueError("odd"), PermanentError, RetryableError),
        (KeyError("odd"), PermanentError, RetryableError),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
async def test_what_was_sent_decides_what_a_failure_means(
    error: Exception, before: type[ProviderError], after: type[ProviderError]
) -> None:
    for sent, expected in ((False, before), (True, after)):
        with pytest.raises(ProviderError) as caught:
            async with guarded(KEY) as exchange:
                exchange.sent = sent
                raise error
        assert type(caught.value) is expected
        assert KEY not in str(caught.value)


async def test_key_quoted_by_the_provider_is_taken_out() -> None:
    with pytest.raises(PermanentError) as caught:
        async with guarded(KEY):
            raise PermanentError(f"the key {KEY} is not valid", reason="unauthenticated")

    assert caught.value.message == str(caught.value) == "the key [key] is not valid"


async def test_cancellation_passes() -> None:
    with pytest.raises(asyncio.CancelledError):
        async with guarded(KEY):
            raise asyncio.CancelledError
