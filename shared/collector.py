"""Python's garbage collector, tuned for processes that start once and then serve for weeks."""

from __future__ import annotations

import gc

#: Allocations between collections of the young, and how many of those between collections of the older ones. With the
#: default of 700 everything alive is walked several times a second under load, 60 to 80 ms each. Much rarer than
#: this, and a worker holds some tens of MiB of pictures in circles that nobody collects.
_THRESHOLDS = (10_000, 10, 10)


def hold_the_collector() -> None:
    """Called first of all: what is imported is no garbage, and looking for some takes an eighth of a start."""
    gc.disable()


def calm_the_collector() -> None:
    """Called once everything that lives as long as the process is there: from now on it is never walked again."""
    gc.enable()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
