"""Requests as bytes, over sockets of their own: also those that no client library would send."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

#: Seconds within which whatever is whole must be answered.
BOUND = 10.0
#: For so long an answer is waited for where what was sent may be no whole request.
_UNCERTAIN = 0.3


@dataclass(frozen=True)
class Raw:
    """A request before it is sent.

    Args:
        whole: it says the truth about its body, so an answer must come; otherwise one may.
        framed: Content-Length is added.
        ambiguous: where the body ends is a matter of opinion, so nothing behind it may be taken for a request.
    """

    method: str
    target: bytes
    headers: Sequence[tuple[bytes, bytes]] = ()
    body: bytes = b""
    whole: bool = True
    framed: bool = True
    ambiguous: bool = False

    def data(self) -> bytes:
        headers = [(b"Host", b"localhost"), *self.headers]
        if self.framed and (self.body or self.method in {"POST", "PUT", "PATCH"}):
            headers.append((b"Content-Length", b"%d" % len(self.body)))
        lines = [b"%s: %s" % pair for pair in headers]
        return b"\r\n".join([b"%s %s HTTP/1.1" % (self.method.encode(), self.target), *lines, b"", self.body])

    def __repr__(self) -> str:
        data = self.data()
        return f"{data[:1500]!r}{f' … {len(data)} bytes' if len(data) > 1500 else ''}"


@dataclass
class Answer:
    """What came back; of a stream, its head."""

    status: int
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    #: What came after the answer on the same connection.
    rest: bytes = b""

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)

    def json(self) -> Any:
        return json.loads(self.body)


def send(port: int, request: Raw) -> Answer | None:
    """The answer; None where the server ended the connection without one, or where it waits for the rest of the request.

    Raises:
        TimeoutError: no answer came in time to what was whole.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=BOUND) as connection:
        with suppress(ConnectionError):  # refused before it had all come; the answer may be there
            connection.sendall(request.data())
        return _receive(connection, request)


def _receive(connection: socket.socket, request: Raw) -> Answer | None:
    deadline = time.monotonic() + (BOUND if request.whole else _UNCERTAIN)
    data = b""
    while True:
        answer = _parsed(data, head_only=request.method == "HEAD")
        if answer is not None:
            return answer
        connection.settimeout(max(0.001, deadline - time.monotonic()))
        try:
            piece = connection.recv(1 << 16)
        except TimeoutError:
            if request.whole:
                raise
            return None
        except ConnectionError:
            return None
        if not piece:
            assert not data, f"the connection ended within an answer: {data[:300]!r}"
            return None
        data += piece


def _parsed(data: bytes, *, head_only: bool) -> Answer | None:
    head, end, body = data.partition(b"\r\n\r\n")
    if not end:
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    version, status = first.split(" ")[:2]
    assert version == "HTTP/1.1", first
    headers = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    answer = Answer(int(status), headers)
    if answer.status == 100:
        return _parsed(body, head_only=head_only)
    stream = (answer.header("content-type") or "").startswith("text/event-stream")
    if head_only or stream or answer.status in {204, 304}:
        answer.rest = b"" if stream else body
        return answer
    if answer.header("transfer-encoding") == "chunked":
        return _joined(answer, body)
    length = int(answer.header("content-length") or 0)
    if len(body) < length:
        return None
    answer.body, answer.rest = body[:length], body[length:]
    return answer


def _joined(answer: Answer, body: bytes) -> Answer | None:
    while True:
        size, end, rest = body.partition(b"\r\n")
        if not end:
            return None
        length = int(size, 16)
        if len(rest) < length + 2:
            return None
        answer.body += rest[:length]
        body = rest[length + 2 :]
        if length == 0:
            answer.rest = body
            return answer
