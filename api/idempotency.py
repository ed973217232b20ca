"""Requests that a client may send twice: the header Idempotency-Key."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fastapi import Request

from api.deps import caller_of, services_of
from api.render import JsonResponse, Whole
from shared.idempotency.claim import Answer, Claim, fingerprint, key_of

_HEADER = "idempotency-key"


def is_keyed(request: Request) -> bool:
    return _HEADER in request.headers


def claim_of(request: Request, data: bytes, parsed: Any) -> Claim:
    """What the request is known by if it comes again.

    Args:
        data: its body, and ``parsed`` what that says.

    Raises:
        BadRequest: the header cannot be read.
    """
    return claim_by(request, fingerprint(request.method, request.url.path, data, parsed))


def claim_by(request: Request, digest: bytes) -> Claim:
    """Likewise where the fingerprint was worked out while the body came.

    Raises:
        BadRequest: the header cannot be read.
    """
    return Claim(caller_of(request).project_id, key_of(request.headers.getlist(_HEADER)), digest)


async def answered(request: Request, claim: Claim, work: Callable[[], Awaitable[Answer]]) -> Whole:
    """The response, from what was stored or from the work; see ``IdempotencyService.once``."""
    answer, replayed = await services_of(request).idempotency.once(claim, work)
    return response_of(answer, {"Idempotent-Replayed": "true"} if replayed else {})


def response_of(answer: Answer, headers: Mapping[str, str] | None = None) -> Whole:
    response = JsonResponse(answer.body, answer.status, answer.headers)
    if headers:
        response.add(headers)
    return response
