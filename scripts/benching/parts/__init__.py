"""What is measured. A part is a function of the benchmark and of its subjects; it notes a sample a subject and case.

Within a repeat all subjects are measured one after the other, and every other repeat in reverse order, so that what
slows the machine meets all of them.
"""

from collections.abc import Iterator, Sequence
from typing import TypeVar

_Subject = TypeVar("_Subject")


def turns(subjects: Sequence[_Subject], repeat: int) -> Iterator[_Subject]:
    """The order of one repeat."""
    return iter(subjects) if repeat % 2 == 0 else reversed(subjects)
