"""Who answered an attempt, and what it cost or may have cost."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import Row

from shared.jobs.outcomes import Served
from shared.kinds import KINDS
from shared.providers.base import SIMULATOR, Generation, ProviderError, Usage
from shared.providers.catalog import ModelSpec, catalog
from shared.providers.pricing import cost, estimate

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Account:
    """A call's model, the provider it goes to, and what it would cost (USD), worked out beforehand."""

    model: ModelSpec
    provider: str
    estimate: Decimal

    def of_answer(self, generation: Generation) -> Served:
        """The provider's own figure, else the catalogue's; an answer without usage was not free: it is estimated."""
        if generation.cost_usd is not None:
            price = generation.cost_usd
        elif generation.usage == Usage():
            price = self.estimate
        else:
            price = self._price(generation.usage)
        return Served(
            provider=SIMULATOR if generation.simulated else self.provider,
            upstream_model=self.model.upstream,
            model_version=generation.model_version,
            upstream_request_id=generation.upstream_request_id,
            usage=generation.usage.as_json(),
            cost=price,
            estimate=self.estimate,
        )

    def of_error(self, error: ProviderError) -> Served:
        """What came along with an error; the estimate where nobody knows whether it was billed."""
        if error.usage is not None:
            price = self._price(error.usage)
        else:
            price = self.estimate if error.billed is None else Decimal(0)
        return Served(
            provider=SIMULATOR if error.simulated else self.provider,
            upstream_model=self.model.upstream,
            model_version=error.model_version,
            upstream_request_id=error.upstream_request_id,
            usage=error.usage.as_json() if error.usage else None,
            cost=price,
            estimate=self.estimate,
        )

    def of_aborted_call(self) -> Served:
        """A call cut short after it went out: it may have been billed."""
        return Served(
            provider=self.provider,
            upstream_model=self.model.upstream,
            cost=self.estimate,
            estimate=self.estimate,
        )

    def _price(self, usage: Usage) -> Decimal:
        # Which day's price holds is the only thing that this machine's clock decides.
        return cost(self.model, usage, datetime.now(UTC))


def expected_cost(lost: Row[Any]) -> Decimal:
    """USD that the call of a lost worker (a row of ``queries.lock_lost``) may have cost.

    A call that was noted with its claim has no estimate yet; nobody needs one until now.
    """
    if lost.estimate is not None:
        return Decimal(lost.estimate)
    try:
        request = KINDS[lost.kind].to_request(lost.input, [])
        return estimate(catalog()[lost.model], request, datetime.now(UTC))
    except Exception:
        # A model that is no longer in the catalogue, say: its jobs must be rescued all the same.
        log.exception("job %s: what its lost call may have cost cannot be worked out", lost.job_id)
        return Decimal(0)
