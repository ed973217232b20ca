from __future__ import annotations

import asyncio
import threading

import pytest

from shared import addresses
from shared.addresses import Policy, RefusedUrlError, UnreachableError, is_public, parse, resolve
from tests.conftest import settings_of
from tests.patience import PATIENCE

PRODUCTION = Policy()
DEVELOPMENT = Policy.of(
    settings_of(database_url="postgresql://a:b@127.0.0.1/t", redis_url="redis://127.0.0.1")
)


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "1.1.1.1", "2001:4860:4860::8888", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"],
)
def test_public_addresses(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "0.1.2.3",
        "10.1.2.3",
        "100.64.0.1",
        "127.0.0.1",
        "127.255.255.254",
        "169.254.169.254",
        "172.31.255.255",
        "192.0.0.9",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.0.1",
        "198.19.0.1",
        "203.0.113.7",
        "224.0.0.1",
        "239.255.255.250",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::7f00:1",  # IPv4-compatible
        "::ffff:10.0.0.1",
        "::ffff:169.254.169.254",
        "::ffff:0:127.0.0.1",  # IPv4-translated
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::808:808",  # local NAT64
        "100::1",  # discard
        "2001::1",  # Teredo
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",
        "2001:db8::1",
        "2002:7f00:1::",  # 6to4 of 127.0.0.1
        "2002:808:808::1",
        "3fff::1",
        "5f00::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1%eth0",
        "fec0::1",
        "ff02::1",
    ],
)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://example.com/", "must begin with https"),
        ("ftp://example.com/", "must begin with https"),
        ("file:///etc/passwd", "must begin with https"),
        ("gopher://example.com:6379/_FLUSHALL", "must begin with https"),
        ("example.com/a", "must begin with https"),
        ("https:///a", "names no host"),
        ("https://user:pw@example.com/", "user name or password"),
        ("https://@example.com/", "user name or password"),
        ("https://example.com@127.0.0.1/", "user name or password"),
        ("https://example.com:22/", "port 22"),
        ("https://example.com:0/", "port 0"),
        ("https://example.com:70000/", "malformed"),
        ("https://example.com:\u0661/", "percent-encoded"),
        ("https://[::1/", "malformed"),
        ("https://127.0.0.1/", "public internet"),
        ("https://127.0.0.1./", "public internet"),
        ("https://[::1]/", "public internet"),
        ("https://[::ffff:169.254.169.254]/", "public internet"),
        ("https://[fe80::1%25eth0]/", "public internet|malformed|not a name"),
        ("https://2130706433/", "unusual spelling"),
        ("https://0x7f000001/", "unusual spelling"),
        ("https://0x7f.1/", "unusual spelling"),
        ("https://0177.0.0.1/", "unusual spelling"),
        ("https://127.1/", "unusual spelling"),
        ("https://exa mple.com/", "percent-encoded"),
        ("https://example.com/\r\nHost: internal", "percent-encoded"),
        ("https://example.com\\@127.0.0.1/", "percent-encoded"),
        ("https://ex%61mple.com/", "not a name"),
        ("https://-example.com/", "not a name"),
        ("https://" + "a" * 64 + ".com/", "not a name"),
        ("https://\u24dbocalhost/", "percent-encoded"),
        ("https://example.com/" + "a" * 2048, "longer than 2048"),
    ],
)
def test_urls_that_are_refused_before_any_lookup(url: str, words: str) -> None:
    with pytest.raises(RefusedUrlError, match=words):
        parse(url, PRODUCTION)


def test_a_url_is_read_as_it_will_be_called() -> None:
    target = parse("https://Example.COM:8443/a%20b?c=d&e#fragment", PRODUCTION)

    assert (target.host, target.authority) == ("example.com", "example.com:8443")
    assert target.at("2606:4700::1111") == "https://[2606:4700::1111]:8443/a%20b?c=d&e"
    assert parse("https://example.com.", PRODUCTION).authority == "example.com"
    assert parse("https://[2606:4700::1111]/", PRODUCTION).authority == "[2606:4700::1111]"


async def test_one_address_that_is_not_public_refuses_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "_lookup", lambda host, port: ["8.8.8.8", "10.0.0.7"])

    with pytest.raises(RefusedUrlError) as caught:
        await resolve(parse("https://mixed.test/", PRODUCTION), PRODUCTION)

    assert "10.0.0.7" not in str(caught.value)


async def test_a_name_without_addresses_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "_lookup", lambda host, port: [])

    with pytest.raises(UnreachableError, match="does not resolve"):
        await resolve(parse("https://nothing.test/", PRODUCTION), PRODUCTION)


async def test_names_that_resolve_slowly_do_not_delay_others(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()

    def lookup(host: str, _: int) -> list[str]:
        if host.startswith("slow"):
            over.wait(2 * PATIENCE)
        return ["8.8.8.8"]

    monkeypatch.setattr(addresses, "_lookup", lookup)
    slow = [
        asyncio.create_task(resolve(parse(f"https://slow{n}.test/", PRODUCTION), PRODUCTION))
        for n in range(128)
    ]
    try:
        await asyncio.sleep(0)
        async with asyncio.timeout(PATIENCE):
            assert await resolve(parse("https://quick.test/", PRODUCTION), PRODUCTION) == ["8.8.8.8"]
    finally:
        over.set()
        await asyncio.gather(*slow)


async def test_http_goes_to_listed_networks_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "_lookup", lambda host, port: ["8.8.8.8"])

    assert parse("http://127.0.0.1:8080/", DEVELOPMENT).port == 8080
    with pytest.raises(RefusedUrlError, match="https"):
        await resolve(parse("http://public.test/", DEVELOPMENT), DEVELOPMENT)
    with pytest.raises(RefusedUrlError, match="public internet"):
        parse("http://10.0.0.1/", DEVELOPMENT)


def test_production_reaches_its_own_networks_only_where_they_are_named_and_over_https() -> None:
    rest = {
        "environment": "production",
        "database_url": "postgresql://plantain:s3cr3t-enough@db/plantain",
        "redis_url": "redis://:s3cr3t-enough@redis:6379/0",
        "gemini_api_key": "AIza-something",
    }
    named = Policy.of(settings_of(**rest, outbound_private_networks="10.20.0.0/16, fd00::/8"))

    assert Policy.of(settings_of(**rest)) == PRODUCTION
    assert parse("https://10.20.0.1/", named).host == "10.20.0.1"
    with pytest.raises(RefusedUrlError):
        parse("https://10.21.0.1/", named)
    with pytest.raises(RefusedUrlError):
        parse("http://10.20.0.1/", named)
