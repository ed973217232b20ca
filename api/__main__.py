"""``python -m api``: serves the API with uvicorn."""

from __future__ import annotations

import sys

import uvicorn
from pydantic import ValidationError

from api.protocol import LimitedProtocol
from shared.config import get_settings

#: How long requests under way may take after SIGTERM.
GRACE_SECONDS = 20


def main() -> int:
    try:
        settings = get_settings()
    except ValidationError as error:
        for part in error.errors(include_url=False, include_input=False):
            name = str(part["loc"][0]).upper() if part["loc"] else "Settings"
            print(f"{name}: {part['msg'].removeprefix('Value error, ')}", file=sys.stderr)
        print(
            "Not started: set these in the environment or in .env; .env.example lists all.", file=sys.stderr
        )
        return 2
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
