"""A typed client of Plantain's API, blocking (``Plantain``) and for asyncio (``AsyncPlantain``).

    from shared.client import Plantain

    with Plantain() as plantain:  # PLANTAIN_URL, PLANTAIN_API_KEY
        job = plantain.submit("text.generate", {"prompt": "A haiku about a plantain"})
        plantain.wait(job.id)
        print(plantain.result(job.id).result.text)

Needs Python and httpx, nothing else of this repository: docs/decisions has the reasons, docs/examples.md more to copy.
"""

from shared.client.aio import AsyncPlantain
from shared.client.connection import __version__
from shared.client.errors import (
    ApiError,
    BadRequest,
    BatchTimeout,
    ConfigurationError,
    Conflict,
    DownloadFailed,
    FieldProblem,
    Forbidden,
    Gone,
    NoAnswer,
    NotFound,
    PayloadTooLarge,
    PlantainError,
    RateLimited,
    Unauthenticated,
    Unavailable,
    UnexpectedAnswer,
    ValidationFailed,
    WaitTimeout,
    WebhookInvalid,
)
from shared.client.models import (
    FINAL,
    Attempt,
    Batch,
    BatchCancelled,
    BatchOptions,
    BatchResult,
    CancelReceipt,
    Delta,
    Event,
    Image,
    Job,
    JobFilter,
    JobResult,
    JobsCancelled,
    Output,
    SubmitOptions,
    Summary,
    Upload,
)
from shared.client.operations import picture
from shared.client.retrying import Retries
from shared.client.sync import Plantain
from shared.client.webhooks import Delivery, WebhookVerifier

__all__ = [
    "FINAL",
    "ApiError",
    "AsyncPlantain",
    "Attempt",
    "BadRequest",
    "Batch",
    "BatchCancelled",
    "BatchOptions",
    "BatchResult",
    "BatchTimeout",
    "CancelReceipt",
    "ConfigurationError",
    "Conflict",
    "Delivery",
    "Delta",
    "DownloadFailed",
    "Event",
    "FieldProblem",
    "Forbidden",
    "Gone",
    "Image",
    "Job",
    "JobFilter",
    "JobResult",
    "JobsCancelled",
    "NoAnswer",
    "NotFound",
    "Output",
    "PayloadTooLarge",
    "Plantain",
    "PlantainError",
    "RateLimited",
    "Retries",
    "SubmitOptions",
    "Summary",
    "Unauthenticated",
    "Unavailable",
    "UnexpectedAnswer",
    "Upload",
    "ValidationFailed",
    "WaitTimeout",
    "WebhookInvalid",
    "WebhookVerifier",
    "__version__",
    "picture",
]
