"""``python -m worker``: the Celery worker with the options that this design needs."""

from __future__ import annotations

import sys

from shared.config import refuse
from shared.queue import ALL_QUEUES
from worker.settings import checked_settings


def main() -> int:
    settings = checked_settings()
    queues = [name.strip() for name in settings.worker_queues.split(",") if name.strip()] or list(ALL_QUEUES)
    unknown = sorted(set(queues) - set(ALL_QUEUES))
    if unknown:
        refuse([f"WORKER_QUEUES: names {', '.join(unknown)}; there are: {', '.join(ALL_QUEUES)}"])
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
