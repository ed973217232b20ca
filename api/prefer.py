"""The header ``Prefer`` (RFC 7240), of which ``wait`` means something here; pure."""

from __future__ import annotations

import re

#: Longer than this nobody waits: proxies cut what is silent.
MAX_SECONDS = 60
_WAIT = re.compile(r'[ \t]*wait[ \t]*=[ \t]*(?:"([0-9]{1,9})"|([0-9]{1,9}))[ \t]*(?:;.*)?', re.IGNORECASE)


def wait_seconds(header: str | None) -> int | None:
    """For how long the client would wait, in seconds, 60 at most; None where it does not say.

    What is malformed is no preference, as the standard has it; of several, the first counts.
    """
    if not header:
        return None
    for preference in header.split(","):
        match = _WAIT.fullmatch(preference)
        if match:
            return min(int(match[1] or match[2]), MAX_SECONDS)
    return None


def applied(seconds: int | None) -> dict[str, str]:
    """The header that says so."""
    return {} if seconds is None else {"Preference-Applied": f"wait={seconds}"}
