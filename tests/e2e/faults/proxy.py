"""A TCP proxy that can lose its mind: pass, stall, trickle, swallow, reset.

What it cannot imitate is a peer whose kernel has gone: connections through it are still acknowledged, so only timeouts
of the programs themselves help. That is the harder case.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Literal

HOST = "127.0.0.1"
#: What happens to bytes: they go through; they are kept until they may pass; they come one by one; they are lost.
Mode = Literal["pass", "stall", "trickle", "hole"]
#: Between two bytes that trickle: less than any timeout of a socket, which begins anew with each.
_TRICKLE_SECONDS = 1.0
#: Which bytes: those of the client, those of the server, or all.
Direction = Literal["to_server", "to_client", "both"]


@dataclass(eq=False)
class _Pipe:
    """One direction of one connection."""

    mode: Mode
    may_go: asyncio.Event = field(default_factory=asyncio.Event)
    #: Bytes after which the connection is reset.
    budget: int | None = None
    #: Bytes that went through.
    passed: int = 0

    def set(self, mode: Mode) -> None:
        self.mode = mode
        if mode == "stall":
            self.may_go.clear()
        else:
            self.may_go.set()

    async def run(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            await self.may_go.wait()
            while data and self.mode == "trickle":
                writer.write(data[:1])
                data = data[1:]
                await asyncio.sleep(_TRICKLE_SECONDS)
            if data and self.mode == "pass":
                writer.write(data[: self.budget])
                self.passed += len(data[: self.budget])
                await writer.drain()
            if self.budget is not None:
                self.budget -= min(self.budget, len(data))
                if not self.budget:
                    return


@dataclass(eq=False)
class _Link:
    to_server: _Pipe
    to_client: _Pipe
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    def set(self, mode: Mode, direction: Direction) -> None:
        if direction != "to_client":
            self.to_server.set(mode)
        if direction != "to_server":
            self.to_client.set(mode)


class Proxy:
    """Listens on loopback from construction until ``close``; its methods may be called from any thread."""

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._links: set[_Link] = set()
        self._modes: dict[str, Mode] = {"to_server": "pass", "to_client": "pass"}
        self._refuses = False
        self._budgets: list[int] = []
        self._downs: list[_Pipe] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._server = self._run(asyncio.start_server(self._serve, HOST, 0))
        self.port: int = self._server.sockets[0].getsockname()[1]

    def heal(self) -> None:
        """Everything passes again; what was stalled goes through now, what was swallowed is lost."""
        self._refuses = False
        self.set("pass")

    def set(
        self, mode: Mode, direction: Direction = "both", *, existing: bool = True, coming: bool = True
    ) -> None:
        """Changes what happens to bytes on existing connections, on those that come, or on all."""

        def change() -> None:
            if coming:
                for name in self._modes:
                    if direction in {name, "both"}:
                        self._modes[name] = mode
            for link in self._links if existing else ():
                link.set(mode, direction)

        self._call(change)

    def stall(self, direction: Direction = "both") -> None:
        """Takes bytes and delivers none, until ``heal``."""
        self.set("stall", direction)

    def hole(self, direction: Direction = "both", *, coming: bool = True) -> None:
        """Loses bytes without a word and keeps connections open; with ``coming`` False new ones are well."""
        self.set("hole", direction, coming=coming)

    def trickle(self) -> None:
        """What is connected now gets its answers byte by byte, until ``heal``; new connections are well."""
        self.set("trickle", "to_client", coming=False)

    def cut(self) -> int:
        """Resets (RST) all connections; new ones are well. Answers how many there were."""
        return int(self._call(self._cut))

    def refuse(self) -> None:
        """Resets all connections, and every new one at once, until ``heal``."""
        self._refuses = True
        self.cut()

    def break_after(self, *sizes: int) -> None:
        """Each of the next connections is reset after so many bytes to the client; 0 loses the whole answer."""
        self._budgets = list(sizes)

    @property
    def connections(self) -> int:
        return len(self._links)

    @property
    def passed_to_client(self) -> int:
        """Bytes of answers that went through, of all connections so far."""
        return sum(pipe.passed for pipe in self._downs)

    def close(self) -> None:
        self.cut()
        self._call(self._server.close)
        self._run(self._finish())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=5)
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refuses:
            _reset(writer)
            return
        link = _Link(_Pipe("pass"), _Pipe("pass"), [writer])
        link.to_server.set(self._modes["to_server"])
        link.to_client.set(self._modes["to_client"])
        link.to_client.budget = self._budgets.pop(0) if self._budgets else None
        self._links.add(link)
        self._downs.append(link.to_client)
        try:
            their_reader, their_writer = await asyncio.open_connection(HOST, self._server_port)
            link.writers.append(their_writer)
            pipes = [link.to_server.run(reader, their_writer), link.to_client.run(their_reader, writer)]
            tasks = [asyncio.ensure_future(pipe) for pipe in pipes]
            # Who closes closes both; but what hangs in a stall or a hole stays open, as it would in a network.
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            await self._linger(link)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        except OSError:
            pass
        finally:
            self._links.discard(link)
            for each in link.writers:
                _reset(each)

    async def _linger(self, link: _Link) -> None:
        """While nothing passes, neither does the news that one side has gone."""
        while "pass" not in {link.to_server.mode, link.to_client.mode} and link in self._links:
            await asyncio.sleep(0.05)

    def _cut(self) -> int:
        links, self._links = self._links, set()
        for link in links:
            for writer in link.writers:
                _reset(writer)
        return len(links)

    async def _finish(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def _call(self, work: Callable[[], Any]) -> Any:
        async def run() -> Any:
            return work()

        return self._run(run())


def _reset(writer: asyncio.StreamWriter) -> None:
    """Closes with RST instead of FIN."""
    with contextlib.suppress(OSError):
        sock = writer.get_extra_info("socket")
        if sock is not None and sock.fileno() >= 0:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
