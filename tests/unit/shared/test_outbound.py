"""One call to a client's URL, against real servers on loopback; only names are made up, as no test has a DNS."""

from __future__ import annotations

import asyncio
import gzip
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from shared import addresses
from shared.outbound import Answer, Outbound, Policy, RefusedUrlError, UnreachableError

Handler = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]
LOOPBACK = Policy((ip_network("127.0.0.0/8"),), http=True)


@asynccontextmanager
async def server(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Hands each request's head to the handler, and closes the connection after it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(await reader.readuntil(b"\r\n\r\n"), writer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    try:
        yield listening.sockets[0].getsockname()[1]
    finally:
        listening.close()


def says(body: bytes = b"ok", status: str = "200 OK", *headers: str) -> tuple[Handler, list[bytes]]:
    """Answers all the same; and what it was asked."""
    asked: list[bytes] = []

    async def handler(head: bytes, writer: asyncio.StreamWriter) -> None:
        asked.append(head)
        lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", *headers, "", ""]
        writer.write("\r\n".join(lines).encode() + body)

    return handler, asked


async def get(url: str, policy: Policy = LOOPBACK, **rest: Any) -> Answer:
    outbound = Outbound(policy, verify=rest.pop("verify", None))
    try:
        return await outbound.request("GET", url, **{"timeout": 5, "max_bytes": 1000, **rest})
    finally:
        await outbound.aclose()


def names(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Every lookup of a name, whoever makes it, gets the next of these answers; the names asked for are noted."""
    real, left, asked = socket.getaddrinfo, list(answers), list[str]()

    def getaddrinfo(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if not str(name).endswith(".test"):
            return real(host, port, *args, **kwargs)
        asked.append(name)
        found = left.pop(0) if len(left) > 1 else left[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


async def test_the_name_stays_in_the_host_header_and_nothing_comes_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\n", encoding="utf-8")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    names(monkeypatch, ["127.0.0.1"])
    handler, asked = says(b"hello")
    async with server(handler) as port:
        answer = await get(f"http://receiver.test:{port}/a?b=c", headers={"x-own": "1"})

    head = asked[0].lower()
    assert (answer.status, answer.body, answer.truncated) == (200, b"hello", False)
    assert f"get /a?b=c http/1.1\r\nhost: receiver.test:{port}\r\n".encode() in head
    assert b"accept-encoding: identity" in head
    assert b"x-own: 1" in head
    assert b"authorization" not in head


async def test_a_name_that_changes_its_address_after_the_check_gains_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handler, _ = says(b"the one that was checked")
    # The second answer is where no test may connect: a second lookup would end the call.
    asked = names(monkeypatch, ["127.0.0.1"], ["10.0.0.1"])
    async with server(handler) as port:
        answer = await get(f"http://rebinding.test:{port}/")

    assert answer.body == b"the one that was checked"
    assert asked == ["rebinding.test"]


async def test_a_name_with_a_private_address_is_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    handler, asked = says()
    names(monkeypatch, ["127.0.0.1"])
    async with server(handler) as port:
        with pytest.raises(RefusedUrlError):
            await get(f"https://inside.test:{port}/", Policy())

    assert asked == []


async def test_a_redirect_is_an_answer_and_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    inside, asked = says(b"secret")
    async with server(inside) as port:
        away, _ = says(b"", "302 Found", f"location: http://127.0.0.1:{port}/")
        async with server(away) as other:
            answer = await get(f"http://127.0.0.1:{other}/")

    assert (answer.status, asked) == (302, [])


async def test_bytes_are_bounded_and_never_decompressed() -> None:
    bomb = gzip.compress(bytes(10_000_000))
    handler, _ = says(bomb, "200 OK", "content-encoding: gzip")

    async def endless(head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(bytes(65536))
            await writer.drain()

    async with server(handler) as port, server(endless) as other:
        whole = await get(f"http://127.0.0.1:{port}/", max_bytes=len(bomb))
        cut = await get(f"http://127.0.0.1:{other}/", max_bytes=100_000)

    assert (whole.body, whole.truncated) == (bomb, False)
    assert (len(cut.body), cut.truncated) == (100_000, True)


async def test_the_time_limit_covers_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    async def drips(head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
        for _ in range(1000):
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.05)

    async with server(drips) as port:
        with pytest.raises(UnreachableError, match="did not answer within"):
            await get(f"http://127.0.0.1:{port}/", timeout=0.3)


async def test_a_resolver_that_is_slow_does_not_hold_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    done = threading.Event()
    monkeypatch.setattr(addresses, "_lookup", lambda host, port: [str(done.wait(5))])
    try:
        with pytest.raises(UnreachableError, match="did not answer within"):
            await get("https://slow.test/", timeout=0.1)
    finally:
        done.set()


async def test_the_next_address_is_tried_where_one_refuses(
    monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int
) -> None:
    handler, _ = says(b"here")
    async with server(handler) as port:
        names(monkeypatch, ["::1", "127.0.0.1"])
        policy = Policy((ip_network("::1/128"), *LOOPBACK.networks), http=True)
        answer = await get(f"http://two.test:{port}/", policy)

    assert answer.body == b"here"
    with pytest.raises(UnreachableError, match="refuses connections"):
        await get(f"http://127.0.0.1:{unused_tcp_port}/")


async def test_an_answer_that_is_no_http_or_breaks_off_is_told_so() -> None:
    async def babbles(head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"+PONG\r\n\r\n")

    async def breaks(head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")

    for handler in (babbles, breaks):
        async with server(handler) as port:
            with pytest.raises(UnreachableError, match="does not answer in HTTP"):
                await get(f"http://127.0.0.1:{port}/")


@pytest.mark.parametrize("sent", [b"", b"part"])
async def test_where_the_status_counts_a_body_may_hang_or_break_off(sent: bytes) -> None:
    async def hangs(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n" + sent)
        await writer.drain()
        await asyncio.sleep(3)

    async def breaks_off(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n" + sent)

    for handler in (hangs, breaks_off):
        async with server(handler) as port:
            began = asyncio.get_running_loop().time()
            answer = await get(f"http://127.0.0.1:{port}/", body_seconds=0.2)
            assert (answer.status, answer.body, answer.truncated) == (200, sent, True)
            assert asyncio.get_running_loop().time() - began < 2
            with pytest.raises(UnreachableError):
                await get(f"http://127.0.0.1:{port}/", timeout=0.3)


async def test_the_certificate_is_checked_for_the_name_at_the_pinned_address(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    names(monkeypatch, ["127.0.0.1"])
    tls, trust = certified("pictures.test", tmp_path)
    handler, asked = says(b"private")
    async with server(handler, tls) as port:
        answer = await get(f"https://pictures.test:{port}/", verify=trust)
        with pytest.raises(UnreachableError, match="certificate"):
            await get(f"https://other.test:{port}/", verify=trust)
        with pytest.raises(UnreachableError, match="certificate"):
            await get(f"https://pictures.test:{port}/")

    assert answer.body == b"private"
    assert len(asked) == 1


def certified(name: str, folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's TLS with a certificate for a name, and a client's that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    chain, private = folder / "chain.pem", folder / "key.pem"
    chain.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, private)
    return context, ssl.create_default_context(cafile=str(chain))
