"""What events are called."""

from __future__ import annotations

from enum import StrEnum


class EventType(StrEnum):
    JOB_QUEUED = "job.queued"
    JOB_RUNNING = "job.running"
    JOB_RETRY_SCHEDULED = "job.retry_scheduled"
    JOB_CANCEL_REQUESTED = "job.cancel_requested"
    JOB_SUCCEEDED = "job.succeeded"
    JOB_FAILED = "job.failed"
    JOB_CANCELLED = "job.cancelled"
    JOB_EXPIRED = "job.expired"
    #: Of a batch, which ``data`` names; about no job.
    BATCH_CREATED = "batch.created"
    BATCH_CANCEL_REQUESTED = "batch.cancel_requested"
    #: All of its jobs are final.
    BATCH_COMPLETED = "batch.completed"
    #: A notice to the project: a webhook endpoint gets nothing any more. About no job.
    WEBHOOK_DISABLED = "webhook.disabled"


#: What jobs tell of themselves.
OF_JOBS = tuple(event for event in EventType if event.startswith("job."))
#: How jobs end.
ENDINGS = (EventType.JOB_SUCCEEDED, EventType.JOB_FAILED, EventType.JOB_CANCELLED, EventType.JOB_EXPIRED)
