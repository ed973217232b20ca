"""Who answered an attempt, and what it cost or may have cost."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

from shared.jobs.outcomes import Served
from shared.providers.base import SIMULATOR, Generation, ProviderError, Usage
from shared.providers.catalog import ModelSpec
from shared.providers.pricing import cost


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
        )

    def of_aborted_call(self) -> Served:
        """A call cut short after it went out: it may have been billed."""
        return Served(provider=self.provider, upstream_model=self.model.upstream, cost=self.estimate)

    def _price(self, usage: Usage) -> Decimal:
        # Which day's price holds is the only thing that this machine's clock decides.
        return cost(self.model, usage, datetime.now(UTC))
