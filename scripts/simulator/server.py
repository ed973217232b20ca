"""uvicorn, with three differences: it prints its address, ends quietly on SIGTERM, and lets a handler break its connection."""

import asyncio
import contextlib
import resource
import signal
import socket
from collections.abc import Iterator
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .exchange import TRANSPORT_KEY
from .facts import SIMULATED_HEADER


class Protocol(HttpToolsProtocol):
    """Leaves the transport in the ASGI scope: resets and half-sent bodies need it."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        cast("dict[str, Any]", self.scope)[TRANSPORT_KEY] = self.transport


class Server(uvicorn.Server):
    """Prints one line to stdout once it accepts connections."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            print(f"simulator listening on http://{shown}:{port}", flush=True)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Exit with status 0 on SIGTERM and SIGINT; uvicorn would raise the signal again and die of it."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    def _stop(self) -> None:
        self.should_exit = True


def run(app: ASGIApp, host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT. Port 0 takes a free one."""
    _raise_descriptor_limit()
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=Protocol,
        ws="none",
        lifespan="on",
        log_level="critical",
        access_log=False,
        backlog=8192,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=1,
        server_header=False,
        headers=[(SIMULATED_HEADER, "1")],  # here, so that even a malformed request's 400 carries it
    )
    Server(config).run()


def _raise_descriptor_limit() -> None:
    """Thousands of sleeping requests are thousands of sockets."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
