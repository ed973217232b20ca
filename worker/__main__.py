"""``python -m worker``: the Celery worker with the options that this design needs."""

from __future__ import annotations

import logging
import os
import sys

from shared.collector import hold_the_collector
from shared.config import refuse
from shared.logging import setup_logging
from shared.queue import ALL_QUEUES
from worker.settings import checked_settings


def main() -> int:
    hold_the_collector()
    settings = checked_settings()
    queues = [name.strip() for name in settings.worker_queues.split(",") if name.strip()] or list(ALL_QUEUES)
    unknown = sorted(set(queues) - set(ALL_QUEUES))
    if unknown:
        refuse([f"WORKER_QUEUES: names {', '.join(unknown)}; there are: {', '.join(ALL_QUEUES)}"])
    from celery.apps import worker as celery_worker

    from worker.app import app

    name = settings.worker_name or "worker"
    # Celery has something to say before it asks for the log to be set up, such as that this is root.
    setup_logging(settings)
    celery_worker.safe_say = _say
    app.worker_main(
        [
            "--quiet",  # no banner: it is no log line
            "worker",
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


def _say(message: str, _: object = None) -> None:
    """What Celery prints when a signal arrives, as a line of the log; not logged, as a signal may arrive in logging."""
    record = logging.LogRecord("celery.worker", logging.INFO, __file__, 0, message.strip(), None, None)
    line = logging.getLogger().handlers[0].format(record)
    os.write(2, f"{line}\n".encode())


if __name__ == "__main__":
    sys.exit(main())
