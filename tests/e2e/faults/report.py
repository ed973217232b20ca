"""The table at the end: each fault, its jobs, provider calls expected and made, the worst recovery, the seed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    """One test's figures.

    Attributes:
        recovery: seconds from the fault (or its end) until the last job that it had left behind was claimed again.
        took: seconds of the whole test, the stack's start included.
    """

    number: int
    name: str
    jobs: int
    expected: tuple[int, int]
    made: int
    recovery: float | None
    seed: int
    took: float
    remark: str = ""


_HEADER = ("#", "fault", "jobs", "calls expected", "made", "recovery", "took", "seed", "")


def table(lines: list[Line]) -> list[str]:
    """Rows of equal width, in order of the faults' numbers."""
    rows = [_HEADER] + [_cells(line) for line in sorted(lines, key=lambda each: (each.number, each.name))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
    return [
        "  ".join(
            cell.ljust(width) if column in {1, 8} else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _cells(line: Line) -> tuple[str, ...]:
    least, most = line.expected
    return (
        str(line.number),
        line.name,
        str(line.jobs),
        str(least) if least == most else f"{least}-{most}",
        str(line.made),
        "-" if line.recovery is None else f"{line.recovery:.1f} s",
        f"{line.took:.0f} s",
        str(line.seed),
        line.remark,
    )
