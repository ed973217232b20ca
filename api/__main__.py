"""``python -m api``: serves the API with uvicorn."""

from __future__ import annotations

import sys

import uvicorn

from api.protocol import LimitedProtocol
from shared.config import settings_or_exit

#: How long requests under way may take after SIGTERM.
GRACE_SECONDS = 20


def main() -> int:
    settings = settings_or_exit()
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
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
