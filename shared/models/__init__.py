"""Every table, so that metadata is complete wherever one of them is imported."""

from shared.models.access import ApiKey, Project
from shared.models.artifacts import Artifact, ArtifactBytes
from shared.models.base import Base
from shared.models.batches import Batch
from shared.models.gates import ModelGate
from shared.models.idempotency import IdempotencyKey
from shared.models.jobs import Attempt, Job, JobEvent
from shared.models.lists import JobDailyTotals, JobLabel, JobPrompt, JobTotals, Progress
from shared.models.uploads import Upload, UploadChunk
from shared.models.webhooks import (
    WebhookAttempt,
    WebhookDelivery,
    WebhookEndpoint,
    WebhookProgress,
    WebhookSecret,
)
from shared.models.workers import Worker

__all__ = [
    "ApiKey",
    "Artifact",
    "ArtifactBytes",
    "Attempt",
    "Base",
    "Batch",
    "IdempotencyKey",
    "Job",
    "JobDailyTotals",
    "JobEvent",
    "JobLabel",
    "JobPrompt",
    "JobTotals",
    "ModelGate",
    "Progress",
    "Project",
    "Upload",
    "UploadChunk",
    "WebhookAttempt",
    "WebhookDelivery",
    "WebhookEndpoint",
    "WebhookProgress",
    "WebhookSecret",
    "Worker",
]
