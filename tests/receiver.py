"""A server that gets webhooks: real HTTP on loopback, in threads of its own."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import orjson
from standardwebhooks.webhooks import Webhook

from shared.client import WebhookVerifier


@dataclass(frozen=True)
class Received:
    """One request."""

    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def message(self) -> dict[str, Any]:
        found: dict[str, Any] = orjson.loads(self.body)
        return found

    def verified(self, secret: str) -> dict[str, Any]:
        """The message, once the standard's own library and our client have found the signature to be the secret's."""
        found: dict[str, Any] = Webhook(secret).verify(self.body, dict(self.headers))
        assert WebhookVerifier(secret).verify(self.body, self.headers).id == self.id
        return found


#: Status, headers and body of the answer to a request.
Answer = tuple[int, Mapping[str, str], bytes]


class Receiver:
    """Answers 200, or what ``answers`` says for a path; the functions may take their time."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.received: list[Received] = []
        self.answers: dict[str, Callable[[Received], Answer]] = {}
        self._lock = threading.Lock()

    def answer(self, request: Received) -> Answer:
        with self._lock:
            self.received.append(request)
        act = self.answers.get(request.path)
        return act(request) if act else (200, {}, b"thank you")

    def at(self, path: str) -> list[Received]:
        with self._lock:
            return [request for request in self.received if request.path == path]

    def types(self, path: str) -> list[str]:
        return [request.message["type"] for request in self.at(path)]

    def times(self) -> Counter[str]:
        """How often each message came."""
        with self._lock:
            return Counter(request.id for request in self.received)

    def bodies(self) -> dict[str, set[bytes]]:
        """What came under each id."""
        found: defaultdict[str, set[bytes]] = defaultdict(set)
        with self._lock:
            for request in self.received:
                found[request.id].add(request.body)
        return found


@contextmanager
def receiving() -> Iterator[Receiver]:
    """A receiver that runs until the end of the block."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            size = int(self.headers.get("content-length", "0"))
            names = {name.lower(): value for name, value in self.headers.items()}
            sent = self.rfile.read(size)
            if len(sent) < size:
                return  # whoever asked was killed in the middle: no message
            status, headers, body = receiver.answer(Received(self.path, names, sent))
            try:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
            except OSError:
                pass  # whoever asked has gone

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 256
        daemon_threads = True
        block_on_close = False

    with Server(("127.0.0.1", 0), Handler) as server:
        receiver = Receiver(server.server_address[1])
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        yield receiver
        server.shutdown()
        thread.join(5)
