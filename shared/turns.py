"""When the callers of a coalescer (``shared.coalesce``) go in two halves."""

from __future__ import annotations

from math import inf

#: What a caller costs this process, from one answer to its next question, about.
_CALLER_SECONDS = 0.00015
#: And a batch as much as so many callers, about: two small ones are dearer than a large one.
_BATCH_CALLERS = 6


class Turns:
    """Whether callers go in two halves by turns: while one half's batch is under way, the other is answered and read.

    Else those who were answered together ask together again, and this process and the server wait for one another. It is
    right where a batch takes no longer than its callers keep this process busy; behind a slow disk each half would wait for
    the other's commit.
    """

    __slots__ = ("_most", "_takes", "_there", "on")

    def __init__(self, max_batch: int) -> None:
        self._most = max_batch
        self.on = False
        #: Callers, wherever they are: as many as were seen at once of late.
        self._there = 0
        #: Seconds of a batch: the shortest of late, as what this process itself was late to notice counts for nothing.
        self._takes = inf

    @property
    def share(self) -> int:
        """Half of the callers."""
        return -(-self._there // 2)

    def saw(self, callers: int) -> None:
        """So many wait or are in a batch under way."""
        self._there = max(callers, self._there * 7 // 8)
        # More than two full batches are a queue, for which all lanes are wanted.
        self.on = self._takes < (self._there - _BATCH_CALLERS) * _CALLER_SECONDS and self.share <= self._most

    def took(self, seconds: float) -> None:
        """A batch was under way for so long."""
        self._takes = min(seconds, self._takes * 1.2)
