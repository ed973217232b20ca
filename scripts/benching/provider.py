"""``python -m scripts.benching.provider --port N``: a Gemini that answers as fast as Python can, on loopback.

The simulator does much more and takes more CPU than the worker that calls it. This one knows a single answer, gives
it after a delay, and counts. Beside ``POST …:generateContent`` there are:

    GET /reset?delay=S     from now on answers take S seconds; counts and times begin anew
    GET /stats             {"calls", "in_flight", "most_in_flight"}
    GET /times             {"arrived": […], "answered": […]} of the last calls, in seconds of CLOCK_MONOTONIC
    GET /wait?calls=N      answered when the Nth call arrives
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import sys
import time
from collections import deque
from typing import cast
from urllib.parse import parse_qs, urlsplit

import uvloop

_END = b"\r\n\r\n"
#: Times are kept of so many calls.
_KEPT = 10_000


def _http(body: bytes) -> bytes:
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json; charset=UTF-8\r\ncontent-length: {len(body)}"
    return head.encode() + _END + body


ANSWER = _http(
    json.dumps(
        {
            "candidates": [
                {
                    "content": {"role": "model", "parts": [{"text": "A plantain is not a banana."}]},
                    "finishReason": "STOP",
                    "index": 0,
                }
            ],
            "usageMetadata": {
                "promptTokenCount": 8,
                "candidatesTokenCount": 7,
                "totalTokenCount": 15,
                "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 8}],
            },
            "modelVersion": "loopback",
            "responseId": "loopback",
        }
    ).encode()
)


class Provider:
    """What all connections share."""

    def __init__(self) -> None:
        self.reset(0.0)

    def reset(self, delay: float) -> None:
        self.delay = delay
        self.calls = self.in_flight = self.most = 0
        self.arrived: deque[float] = deque(maxlen=_KEPT)
        self.answered: deque[float] = deque(maxlen=_KEPT)
        self._waiting: list[tuple[int, Wire]] = []

    def call(self, wire: Wire) -> None:
        """A model is called."""
        self.calls += 1
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        self.arrived.append(time.monotonic())
        if self.delay:
            wire.loop.call_later(self.delay, self._answer, wire)
        else:
            self._answer(wire)
        if self._waiting:
            for calls, waiting in [each for each in self._waiting if each[0] <= self.calls]:
                self._waiting.remove((calls, waiting))
                waiting.write(self._stats())

    def _answer(self, wire: Wire) -> None:
        self.in_flight -= 1
        self.answered.append(time.monotonic())
        wire.write(ANSWER)

    def control(self, wire: Wire, path: str) -> None:
        """One of the requests that no model answers."""
        parts = urlsplit(path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if parts.path == "/wait" and self.calls < int(query["calls"]):
            self._waiting.append((int(query["calls"]), wire))
            return
        if parts.path == "/reset":
            self.reset(float(query["delay"]))
        if parts.path == "/times":
            wire.write(_http(json.dumps({"arrived": [*self.arrived], "answered": [*self.answered]}).encode()))
        else:
            wire.write(self._stats())

    def _stats(self) -> bytes:
        stats = {"calls": self.calls, "in_flight": self.in_flight, "most_in_flight": self.most}
        return _http(json.dumps(stats).encode())


class Wire(asyncio.Protocol):
    """One client's connection, one request at a time."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._buffer = b""
        self.loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance

    def write(self, data: bytes) -> None:
        """Nothing, where the client is gone."""
        if not self._transport.is_closing():
            self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        end = buffer.find(_END)
        if end < 0:
            self._buffer = buffer
            return
        is_call = buffer.startswith(b"POST ")
        if is_call and len(buffer) < end + 4 + _content_length(buffer, end):
            self._buffer = buffer
            return
        self._buffer = b""
        if is_call:
            self._provider.call(self)
        else:
            self._provider.control(self, buffer.split(b" ", 2)[1].decode())


def _content_length(buffer: bytes, end: int) -> int:
    """Raises: ValueError: none is given, as where the body comes in chunks; the connection is closed then."""
    for line in buffer[:end].split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    raise ValueError("a request without Content-Length")


async def _serve(port: int) -> None:
    provider = Provider()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Wire(provider), "127.0.0.1", port, backlog=2048)
    gc.collect()
    gc.freeze()
    await server.serve_forever()


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts.benching.provider")
    parser.add_argument("--port", type=int, required=True)
    uvloop.run(_serve(parser.parse_args().port))
    return 0


if __name__ == "__main__":
    sys.exit(main())
