"""What surrounds every request: its id, and whom its log line names."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from api.middleware import RequestContext

_PROXY, _CLIENT = "127.0.0.1", "203.0.113.7"


async def refused(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 404, "headers": [(b"x-own", b"1")]})
    await send({"type": "http.response.body", "body": b""})


async def asked(
    *headers: tuple[bytes, bytes], by: str = _PROXY, proxies: str = "127.0.0.1,::1"
) -> list[tuple[bytes, bytes]]:
    """The answer's headers."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/", "headers": list(headers), "client": (by, 7)}
    await RequestContext(refused, public_url="", proxies=proxies)(scope, None, send)  # type: ignore[arg-type]
    found: list[tuple[bytes, bytes]] = sent[0]["headers"]
    return found


@pytest.mark.parametrize(
    ("headers", "by", "named"),
    [
        ([(b"x-forwarded-for", _CLIENT.encode())], _PROXY, _CLIENT),
        ([(b"x-forwarded-for", _CLIENT.encode()), (b"x-forwarded-proto", b"https")], _PROXY, _CLIENT),
        ([(b"x-forwarded-for", b"198.51.100.1, " + _CLIENT.encode())], _PROXY, _CLIENT),
        ([(b"x-forwarded-for", _CLIENT.encode())], "198.51.100.9", "198.51.100.9"),
        ([(b"x-forwarded-for", b"")], _PROXY, _PROXY),
        ([], _PROXY, _PROXY),
    ],
    ids=["forwarded", "and how", "through two", "by a stranger", "for nobody", "not at all"],
)
async def test_the_log_names_the_client_that_a_proxy_asks_for(
    headers: list[tuple[bytes, bytes]], by: str, named: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "api.access"):
        await asked(*headers, by=by)
    assert [record.getMessage().split()[0] for record in caplog.records] == [named]


async def test_which_proxies_are_believed_is_set(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "api.access"):
        for proxies in ("10.0.0.0/8", "10.1.0.0/16, 10.1.2.3", "*", _PROXY):
            await asked((b"x-forwarded-for", _CLIENT.encode()), by="10.1.2.3", proxies=proxies)
    assert [record.getMessage().split()[0] for record in caplog.records] == [_CLIENT] * 3 + ["10.1.2.3"]


async def test_a_harmless_id_of_the_clients_own_is_kept() -> None:
    assert (b"x-request-id", b"a-7") in await asked((b"x-request-id", b"a-7"))
    headers = dict(await asked((b"x-request-id", b"a\xff"), (b"x-request-id", b"the-second")))
    assert headers[b"x-request-id"] == b"the-second"
    fresh = dict(await asked((b"x-request-id", b"no spaces")))[b"x-request-id"]
    assert len(fresh) == 36
    assert headers.keys() == {b"x-own", b"x-request-id", b"x-content-type-options"}
