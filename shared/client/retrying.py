"""Trying again: what, how often, after how long.

Everything this client sends may be sent again. Reads, cancels and deletes change nothing the second time; submits and
replays carry an ``Idempotency-Key`` that stays the same for all tries, so there is one job whichever of them arrived. Each
new try is logged to ``plantain.client`` at INFO.
"""

from __future__ import annotations

import logging
import random
import time
from dataclasses import dataclass
from typing import Any

import httpx

from shared.client.errors import ApiError, NoAnswer, PlantainError, error_of
from shared.client.steps import Open, Opened, Pause, Request, Send, Steps

log = logging.getLogger("plantain.client")

#: httpx's errors whose text says little, and what happened.
_REASONS = (
    (httpx.ConnectTimeout, "could not connect in time"),
    (httpx.ConnectError, "could not connect"),
    (httpx.ReadTimeout, "no answer in time"),
    (httpx.TimeoutException, "took too long"),
    (httpx.RequestError, "the connection broke"),
)


@dataclass(frozen=True, slots=True)
class Retries:
    """How patient a client is with one request.

    Attributes:
        tries: at most, the first included; 1 is never to try again.
        patience: seconds after the first try in which another may begin.
        first: seconds of the first pause at most; each further one may be twice as long.
        longest: seconds of one pause at most, unless the server asks for more.
    """

    tries: int = 8
    patience: float = 60
    first: float = 0.25
    longest: float = 10


class Tries:
    """Those of one request."""

    def __init__(self, retries: Retries) -> None:
        self._retries = retries
        self._until = time.monotonic() + retries.patience
        self.made = 1

    def next_pause(self, retry_after: float | None) -> float | None:
        """Seconds to wait before the next try; None where that was the last.

        Full jitter, so that many clients do not come back together. What the server asks for is waited for in any
        case, and a little longer.
        """
        retries = self._retries
        ceiling = min(retries.longest, retries.first * 2.0 ** min(self.made - 1, 30))
        pause = random.uniform(0, ceiling)  # noqa: S311  no secret
        if retry_after is not None:
            pause = retry_after + min(pause, retry_after / 4)
        if self.made >= retries.tries or time.monotonic() + pause > self._until:
            return None
        self.made += 1
        return pause


def answered(request: Request, retries: Retries) -> Steps[httpx.Response]:
    """The answer of a request that succeeded (2xx, 304).

    Raises:
        ApiError: it was refused.
        NoAnswer: none came.
    """
    response: httpx.Response = yield from _tried(request, retries, Send)
    return response


def opened(request: Request, retries: Retries) -> Steps[Opened]:
    """The same with a body that is yet to be read."""
    found: Opened = yield from _tried(request, retries, Open)
    return found


def _tried(request: Request, retries: Retries, effect: type[Send | Open]) -> Steps[Any]:
    tries = Tries(retries)
    while True:
        failure: PlantainError
        try:
            answer: httpx.Response | Opened = yield effect(request)
        except httpx.RequestError as error:
            failure = no_answer(request, error, tries.made)
            failure.__cause__ = error
            pause = tries.next_pause(None)
        else:
            response = answer.response if isinstance(answer, Opened) else answer
            if response.is_success or response.status_code == 304:
                return answer
            failure = _refused(response, tries)
            if failure.code == "too_many_waiting":  # so do not wait there, but ask
                request = request.with_headers(prefer=None)
            pause = tries.next_pause(failure.retry_after)
        if pause is None:
            raise failure
        log.info("%s; trying again in %.1f s", str(failure).partition("\n")[0], pause)
        yield Pause(pause)


def _refused(response: httpx.Response, tries: Tries) -> ApiError:
    """Raises: ApiError: trying again is of no use."""
    failure = error_of(response)
    failure.repeated = tries.made > 1
    if not failure.may_pass:
        raise failure
    return failure


def no_answer(request: Request, error: httpx.RequestError, tries: int) -> NoAnswer:
    """In words of ours: httpx's texts can be empty."""
    reason = next(text for kind, text in _REASONS if isinstance(error, kind))
    often = f" after {tries} tries" if tries > 1 else ""
    more = f" ({error})" if str(error) else ""
    return NoAnswer(f"{request.method} {request.path}: {reason}{often}{more}")
