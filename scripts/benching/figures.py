"""Samples, and what many of them come to: medians, and ratios that are paired within one repeat."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Sample:
    """What one subject did in one case of one repeat.

    Attributes:
        case: what all subjects were asked for alike, such as "32 connections".
        subject: who was measured.
        figures: by names that hold their unit, such as "p99 ms".
    """

    part: str
    case: str
    subject: str
    repeat: int
    figures: dict[str, float]


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of them does not exceed; 0 when there are none."""
    if not ordered:
        return 0.0
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def medians(samples: Sequence[Sample]) -> dict[str, float]:
    """Of each figure over the repeats; a figure that one repeat lacks is taken from the others."""
    names = dict.fromkeys(name for sample in samples for name in sample.figures)
    return {
        name: median(sample.figures[name] for sample in samples if name in sample.figures) for name in names
    }


def paired(ours: Sequence[Sample], theirs: Sequence[Sample], figure: str) -> float | None:
    """The median of ours / theirs, each taken within one repeat: what slows the machine slows both."""
    other = {sample.repeat: sample.figures.get(figure) for sample in theirs}
    ratios = [
        sample.figures[figure] / divisor
        for sample in ours
        if figure in sample.figures and (divisor := other.get(sample.repeat))
    ]
    return median(ratios) if ratios else None


def waves(finished: Sequence[float], width: int) -> float:
    """Completions a second in the steady state, from the times at which jobs finished.

    Where `width` calls run at once they tend to end in waves; so the first wave (filling up) and the last (running
    dry) are left out, and whole waves are counted, from the end of one to the end of another.

    Raises:
        ValueError: fewer than four waves.
    """
    ordered = sorted(finished)
    if len(ordered) < 4 * width:
        raise ValueError(f"{len(ordered)} jobs are no four waves of {width}")
    first, last = ordered[width - 1], ordered[len(ordered) // width * width - width - 1]
    return (len(ordered) // width - 2) * width / (last - first)


def as_json(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """Every sample, in a form for machines."""
    return [vars(sample) for sample in samples]
