"""What this worker's calls tell about their models, written down for all workers.

A 429 pauses the model at once. A run of calls that all failed for the provider's fault (it is down,
or does not answer) pauses it too: a circuit breaker, whose pauses double. Afterwards one call at a
time goes through, and with each that goes well twice as many.
"""

from __future__ import annotations

import logging
from collections import Counter
from datetime import datetime, timedelta

from shared.config import Settings
from shared.db import Database, is_unavailable
from shared.gates import queries
from shared.jobs.status import WaitingReason
from shared.providers.base import (
    ProviderError,
    RateLimitedError,
    RetryableError,
    UnknownOutcomeError,
)
from shared.providers.catalog import ModelSpec

log = logging.getLogger(__name__)

#: Codes of errors that say something about the provider's health, not about one request.
_SIGNS_OF_OUTAGE = frozenset({"provider_unavailable", "timeout", "connection_lost"})
#: A pause that ends so much later than the one last told of is news.
_WORTH_TELLING = timedelta(seconds=1)


class Gatekeeper:
    """One a process. Never raises: the job's own ending matters more."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._failures: Counter[str] = Counter()
        #: Until when each model was last said to be paused: many calls fail together, one line is enough.
        self._told: dict[str, datetime] = {}

    async def went_wrong(
        self, model: ModelSpec, error: ProviderError, *, patience: float, gated: bool
    ) -> None:
        """A call failed.

        Args:
            patience: seconds that the job gave it; a client that waits for less than the model usually
                takes learns nothing about the provider's health.
            gated: it was one of the few that a recovering model was tried with.
        """
        alias = model.alias
        if isinstance(error, RateLimitedError):
            await self._pause(alias, WaitingReason.RATE_LIMITED, error.delay, error.per_minute)
            return
        if error.error_code == "timeout" and patience < model.typical_seconds[1]:
            return
        outage = (
            isinstance(error, RetryableError | UnknownOutcomeError) and error.error_code in _SIGNS_OF_OUTAGE
        )
        if not outage:
            # It answered: what was wrong is the request's own affair (blocked, malformed, no picture).
            await self.answered(alias, gated=gated)
            return
        self._failures[alias] += 1
        if gated or self._failures[alias] >= self._settings.provider_failures_to_pause:
            await self._pause(alias, WaitingReason.PROVIDER_UNAVAILABLE, None, None)

    async def answered(self, model: str, *, gated: bool) -> None:
        """The provider is there and takes calls."""
        self._failures.pop(model, None)
        if not gated:
            return
        try:
            async with self._database.transaction() as db:
                await queries.recover(db, model)
        except Exception as error:  # noqa: BLE001  see _let_go
            self._let_go(error, model)

    async def _pause(
        self, model: str, reason: WaitingReason, delay: float | None, per_minute: int | None
    ) -> None:
        base = self._settings.provider_pause_seconds
        try:
            async with self._database.transaction() as db:
                until = await queries.pause(
                    db,
                    model,
                    seconds=base if delay is None else delay,
                    exact=delay is not None,
                    longest=self._settings.provider_pause_cap_seconds,
                    reason=reason,
                    learned_rpm=per_minute,
                )
        except Exception as error:  # noqa: BLE001  see _let_go
            self._let_go(error, model)
        else:
            log.warning(
                "%s is paused until %s for all workers: %s",
                model,
                until.isoformat(timespec="seconds"),
                reason,
            )

    def _let_go(self, error: Exception, model: str) -> None:
        # Whatever it is, the answer that was just paid for must still be recorded.
        if is_unavailable(error):
            self._database.outage.failed(error)
        else:
            log.error("the gate of %s could not be written", model, exc_info=error)
