"""``python -m worker``: the Celery worker with the options that this design needs."""

from __future__ import annotations

import sys

from pydantic import ValidationError

from shared.config import get_settings
from shared.queue import ALL_QUEUES


def main() -> int:
    try:
        settings = get_settings()
    except ValidationError as error:
        print(f"The settings are wrong:\n{error}\nSee .env.example.", file=sys.stderr)
        return 2
    queues = [name.strip() for name in settings.worker_queues.split(",") if name.strip()] or list(ALL_QUEUES)
    unknown = sorted(set(queues) - set(ALL_QUEUES))
    if unknown:
        print(
            f"WORKER_QUEUES names {', '.join(unknown)}; there are: {', '.join(ALL_QUEUES)}", file=sys.stderr
        )
        return 2
    from worker.app import app

    name = settings.worker_name or "worker"
    app.worker_main(
        [
            "worker",
            "--pool=threads",
            f"--concurrency={settings.worker_concurrency}",
            f"--hostname={name if '@' in name else name + '@%h'}",
            f"--queues={','.join(queues)}",
            f"--loglevel={settings.log_level}",
            # Workers need not know each other: PostgreSQL is where they agree.
            "--without-gossip",
            "--without-mingle",
            "--task-events",
        ]
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
