"""Free TCP ports on loopback."""

import random
import socket
import sys

HOST = "127.0.0.1"
#: Below the range from which outgoing connections get theirs (32768 and up on Linux). A server that is restarted on
#: a port of that range may find it taken by one of its own clients, which then talks to itself.
RANGE = range(20_000, 32_000)


def is_free(port: int, host: str = HOST) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """A port that nobody listens on now. Somebody may take it before its user does: be ready to try another."""
    for port in random.sample(RANGE, 200):
        if is_free(port):
            return port
    raise OSError(f"no free port between {RANGE.start} and {RANGE.stop}")


def claim(port: int) -> bool:
    """Take a free port for as long as this process lives, though nobody listens on it yet.

    False when somebody listens there or claimed it: two stacks that start at the same time get different ports.
    """
    if not is_free(port):
        return False
    if not sys.platform.startswith("linux"):
        return True  # no abstract names: only the race is left
    name = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        name.bind(f"\0plantain-port-{port}")
    except OSError:
        name.close()
        return False
    name.detach()  # open until the process ends; the kernel frees the name then
    return True


def claim_next(start: int) -> int:
    """Claim the first free port from `start` on."""
    return next(port for port in range(start, 65_536) if claim(port))
