"""Up to which id the events of a project can be read without a gap, pure.

Events draw their ids before they are committed, so a later one may be seen before an earlier one. A *mark* says
that every id up to ``id`` was drawn by a transaction older than ``xid``. Once no transaction so old is under way,
all of those events can be read, and no other will ever have such an id: they are *settled*.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

#: Marks kept while an old transaction goes on; what comes then takes the place of the last one.
_MAX_MARKS = 64


class Mark(NamedTuple):
    id: int
    xid: int


class Horizon:
    """Keeps the largest settled id of those that marks were made at."""

    def __init__(self, settled: int) -> None:
        self.settled = settled
        self._marks: deque[Mark] = deque()

    def note(self, mark: Mark) -> None:
        """Takes a mark; they come in the order in which they were made."""
        newest = self._marks[-1].id if self._marks else self.settled
        if mark.id <= newest:
            return
        if len(self._marks) == _MAX_MARKS:
            self._marks.pop()
        self._marks.append(mark)

    def settle(self, oldest: int) -> None:
        """Moves on, given the oldest transaction that was under way after the last mark."""
        while self._marks and self._marks[0].xid < oldest:
            self.settled = self._marks.popleft().id

    @property
    def waits(self) -> bool:
        """Whether there is something beyond the horizon."""
        return bool(self._marks)
