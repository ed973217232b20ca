"""The samples as tables for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from scripts.benching.figures import Sample, medians, paired

#: Ratios are given of these figures, by the part's last word.
RATIOS = {
    "submit": ("req/s", "p99 ms"),
    "poll": ("req/s", "p99 ms"),
    "lists": ("req/s", "p99 ms"),
    "drain": ("jobs/s", "CPU ms/job"),
    "inflight": ("of ideal", "worker MiB"),
    "latency": ("p50 ms", "p99 ms"),
    "memory": (),
    "streams": ("KiB a stream", "p99 ms"),
}


def tables(samples: Sequence[Sample], ours: str) -> str:
    """A table a part and case: medians over the repeats, and `ours` divided by each other subject, paired."""
    parts: dict[tuple[str, str], list[Sample]] = {}
    for sample in samples:
        parts.setdefault((sample.part, sample.case), []).append(sample)
    return "\n\n".join(_table(part, case, each, ours) for (part, case), each in parts.items())


def head(facts: Mapping[str, str]) -> str:
    """The machine and the versions."""
    return "\n".join(f"  {name:<12}{value}" for name, value in facts.items())


def _table(part: str, case: str, samples: Sequence[Sample], ours: str) -> str:
    subjects: dict[str, list[Sample]] = {}
    for sample in samples:
        subjects.setdefault(sample.subject, []).append(sample)
    summaries = {subject: medians(each) for subject, each in subjects.items()}
    columns = list(dict.fromkeys(name for summary in summaries.values() for name in summary))
    of = RATIOS[part.rpartition(" ")[2]] if len(subjects) > 1 else ()
    rows = [["", *columns, *(f"ratio {name}" for name in of)]]
    for subject, summary in summaries.items():
        ratios = [_ratio(subjects, ours, subject, name) for name in of]
        rows.append([subject, *(number(summary.get(name)) for name in columns), *ratios])
    repeats = len({sample.repeat for sample in samples})
    return f"{part}: {case} (median of {repeats})\n{aligned(rows)}"


def _ratio(subjects: Mapping[str, Sequence[Sample]], ours: str, subject: str, figure: str) -> str:
    if ours not in subjects or subject == ours:
        return ""
    return number(paired(subjects[ours], subjects[subject], figure))


def number(value: float | None) -> str:
    """Three digits that say something; a dash where there is nothing."""
    if value is None:
        return "-"
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """The first column to the left, the others to the right."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return "\n".join(
        "  "
        + "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    )
