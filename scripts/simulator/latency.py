"""How long an answer takes: lognormal, from a median and a 95th percentile."""

import math
import random

from .facts import Latency

#: The standard normal's 95th percentile.
_Z95 = 1.6448536269514722


def draw(latency: Latency, rng: random.Random) -> float:
    """Seconds, drawn from the lognormal distribution with this p50 and p95."""
    sigma = math.log(latency.p95 / latency.p50) / _Z95
    return latency.p50 * math.exp(sigma * rng.gauss(0.0, 1.0))
