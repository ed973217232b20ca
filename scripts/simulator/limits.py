"""Limits per model: requests in a sliding window, and calls at the same time."""

import time
from collections import Counter, deque

EVERY_MODEL = "*"


class Limiter:
    """Counts by model; the limits themselves live in the configuration."""

    def __init__(self) -> None:
        self._arrivals: dict[str, deque[float]] = {}
        self._running: Counter[str] = Counter()

    def reset(self) -> None:
        """Begin new windows; running calls stay counted."""
        self._arrivals.clear()

    def delay(self, model: str, limit: int | None, window: float) -> float | None:
        """None when the call may go on (and is counted), else the seconds until it may come again."""
        if limit is None:
            return None
        now = time.monotonic()
        arrivals = self._arrivals.setdefault(model, deque())
        while arrivals and arrivals[0] <= now - window:
            arrivals.popleft()
        if len(arrivals) < limit:
            arrivals.append(now)
            return None
        if not arrivals:  # a limit of 0: nothing will ever be let through
            return window
        return round(max(0.001, arrivals[0] + window - now), 3)

    def full(self, model: str, limit: int | None) -> bool:
        """Whether all places are taken."""
        return limit is not None and self._running[model] >= limit

    def enter(self, model: str, limit: int | None) -> bool:
        """Take a place among the model's running calls; False when all are taken."""
        if self.full(model, limit):
            return False
        self._running[model] += 1
        return True

    def leave(self, model: str) -> None:
        """Give the place back."""
        self._running[model] -= 1


def limit_of(limits: dict[str, int], model: str) -> int | None:
    """The model's own limit, else the one for every model, else None."""
    return limits.get(model, limits.get(EVERY_MODEL))
