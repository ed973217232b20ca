"""``python -m api``: serves the API with uvicorn."""

from __future__ import annotations

import contextlib
import logging
import resource
import sys

import uvicorn

from api.protocol import LimitedProtocol
from shared.collector import hold_the_collector
from shared.config import settings_or_exit
from shared.logging import setup_logging

log = logging.getLogger(__name__)

#: How long requests under way may take after SIGTERM.
GRACE_SECONDS = 20


#: Files and sockets of a process beside those of clients: pools, the loop, the log; with room to spare.
_OWN_FILES = 100


def main() -> int:
    hold_the_collector()
    settings = settings_or_exit()
    setup_logging(settings)
    allow_files(settings.api_max_waiting)
    uvicorn.run(
        "api.app:from_environment",
        factory=True,
        host=settings.api_host,
        port=settings.api_port,
        workers=settings.api_processes,
        loop="uvloop",
        http=LimitedProtocol,
        ws="none",
        lifespan="on",
        log_config=None,  # shared.logging has set it up
        access_log=False,  # api.middleware writes it, with the request's id
        proxy_headers=False,  # as it reads those of proxies
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    return 0


def allow_files(waiting: int) -> None:
    """Raises the limit of open files to what this process may have, and says so where so many cannot wait."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):  # where unlimited is more than the system has
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    needed = waiting + _OWN_FILES
    if allowed != resource.RLIM_INFINITY and allowed < needed:
        log.warning(
            "the limit of open files is %d, and API_MAX_WAITING=%d needs %d: connections beyond it are not taken. "
            "Raise the limit (ulimit -Hn, LimitNOFILE, ulimits of compose) or lower API_MAX_WAITING",
            allowed,
            waiting,
            needed,
        )


if __name__ == "__main__":
    sys.exit(main())
