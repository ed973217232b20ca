"""Something that we need is away: a line when that begins, one a minute while it lasts, one when it is over."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

_LONGEST_REASON = 300
#: How often a lasting outage is mentioned again, seconds.
_REMIND_SECONDS = 60.0
#: An outage is over when so long nothing has failed: some tries go well while others fail.
_QUIET_SECONDS = 1.0


@dataclass(slots=True)
class _Going:
    began: float
    last: float
    told: float
    tries: int = 1


class Outage:
    """What one process knows of an outage; told by all who try. For one event loop."""

    def __init__(self, log: logging.Logger, what: str) -> None:
        self._log = log
        self._what = what
        self._going: _Going | None = None
        #: When a try last failed (monotonic), and how.
        self.last: tuple[float, BaseException | None] = (float("-inf"), None)

    @property
    def lasts(self) -> bool:
        """Tries have failed, and none went well for a second since."""
        return self._going is not None

    def failed(self, error: BaseException) -> None:
        """A try failed because the thing is away; there will be others."""
        now = time.monotonic()
        self.last = (now, error)
        if self._going is None:
            self._going = _Going(now, now, now)
            self._log.warning("%s cannot be used: %s; trying again", self._what, reason(error))
            return
        going = self._going
        going.last = now
        going.tries += 1
        if now - going.told >= _REMIND_SECONDS:
            going.told = now
            self._log.warning(
                "%s cannot be used since %.0f s (%d tries): %s",
                self._what,
                now - going.began,
                going.tries,
                reason(error),
            )

    def went_well(self) -> None:
        """A try went well."""
        going = self._going
        if going is None or time.monotonic() - going.last < _QUIET_SECONDS:
            return
        self._going = None
        # A warning, too: whoever reads only those should learn that it is over.
        self._log.warning(
            "%s can be used again; it could not for %.1f s (%d tries)",
            self._what,
            going.last - going.began,
            going.tries,
        )


def reason(error: BaseException) -> str:
    """The first line of what a library says, or of what the one below it said; the rest is advice and addresses."""
    original = getattr(error, "orig", None) or error
    line, *_ = str(original).strip().splitlines() or [""]
    return line[:_LONGEST_REASON] or type(original).__name__
