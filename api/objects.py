"""JSON with thousands of objects in a list, cut up without parsing it: each can then be parsed by itself.

The parser takes a body in one step, and holds the interpreter for it: 10,000 jobs are 50 ms and more in which no other
request moves. So the objects are found by their brackets and cut out of the body; what is left, the frame, is parsed
as it is, with a mark where each of them was. Whatever is wrong with the JSON is wrong in the frame or in an object.
"""

from __future__ import annotations

import re
import secrets
from bisect import bisect_right
from dataclasses import dataclass
from typing import Any

import orjson

from api import body
from shared.errors import BadRequest
from shared.steps import Steps

# Both stop after a bounded way: a step must be short, whatever the body. Possessive, so that nothing is tried twice.
#: Up to the next bracket, or to a string that is long or has escapes.
_TO_BRACKET = re.compile(rb'(?:[^"\[\]{}]{1,1000}+|"[^"\\]{0,1000}+"){0,500}+(["\[\]{}]?)')
#: Within a string, up to its end or not so far.
_IN_STRING = re.compile(rb'(?:[^"\\]{1,50000}+|\\.){0,50}+', re.DOTALL)
_OPENING = (b"{", b"[")
#: Of a longer one nobody looks for a column by hand.
_LONG_LINE = 1_000_000


@dataclass(frozen=True, slots=True)
class Cut:
    """A body that was cut up.

    Attributes:
        frame: what it says, with marks instead of objects in the lists of the outermost object.
        objects: where those objects stand, in order.
    """

    frame: Any
    objects: list[tuple[int, int]]
    _mark: str

    def number(self, item: Any) -> int | None:
        """Which of ``objects`` stood in the place of this item of a list; None: it is what it is."""
        if isinstance(item, str) and item.startswith(self._mark):
            return int(item[len(self._mark) :])
        return None


async def cut(data: bytes, steps: Steps) -> Cut:
    """Cuts up a body.

    Raises:
        BadRequest: it is no JSON.
    """
    objects = await _objects(data, steps)
    mark = f"*{secrets.token_hex(8)}*"  # neither tag nor key may begin like this, if it comes to stand in one's place
    pieces: list[bytes] = []
    ends: list[int] = []  # of each object in the frame, and what is missing up to there
    missing: list[int] = []
    at = size = gone = 0
    for number, (start, stop) in enumerate(objects):
        piece = data[at:start]
        name = f'"{mark}{number}"'.encode()
        pieces += (piece, name)
        size += len(piece) + len(name)
        gone += stop - start - len(name)
        ends.append(size)
        missing.append(gone)
        at = stop
        if steps.due:
            await steps.rest()
    pieces.append(data[at:])
    try:
        frame = orjson.loads(b"".join(pieces))
    except orjson.JSONDecodeError as error:
        at = place(error)
        before = bisect_right(ends, at)
        raise invalid(data, at + (missing[before - 1] if before else 0), error) from None
    return Cut(frame, objects, mark)


def place(error: orjson.JSONDecodeError) -> int:
    """The byte at which the parser gave up."""
    return len(error.doc[: error.pos].encode(errors="replace"))


def invalid(data: bytes, position: int, error: orjson.JSONDecodeError) -> BadRequest:
    """The error for a body that is no JSON at this byte, or a little before it."""
    line, begins = data.count(b"\n", 0, position) + 1, data.rfind(b"\n", 0, position) + 1
    column = position - begins
    if column < _LONG_LINE:  # else in bytes
        column = len(data[begins:position].decode(errors="replace"))
    column += 1
    return BadRequest(
        f"The body is not JSON: {body.reason(error)} at line {line}, column {column}.", code="invalid_json"
    )


async def _objects(data: bytes, steps: Steps) -> list[tuple[int, int]]:
    """Where the objects in the lists of the outermost object begin and end."""
    found: list[tuple[int, int]] = []
    opened: list[bytes] = []  # the first brackets that are open
    at = depth = start = 0
    while at < len(data):
        if steps.due:
            await steps.rest()
        match = _TO_BRACKET.match(data, at)
        assert match is not None, "it matches nothing, too"
        bracket, at = match[1], match.end()
        if bracket == b'"':
            at = await _end_of_string(data, at, steps)
        elif bracket in _OPENING:
            if depth == 2 and bracket == b"{" and opened == [b"{", b"["]:
                start = at - 1
            depth += 1
            if depth <= 2:
                opened.append(bracket)
        elif bracket:
            depth -= 1
            if depth == 2 and start:
                found.append((start, at))
                start = 0
            del opened[max(depth, 0) :]
    return found


async def _end_of_string(data: bytes, at: int, steps: Steps) -> int:
    """Where the string that this place is in has ended; the end of the data where it does not."""
    while at < len(data):
        match = _IN_STRING.match(data, at)
        assert match is not None, "it matches nothing, too"
        if match.end() == at:  # its end, or a backslash that is the last byte
            return at + 1
        at = match.end()
        if steps.due:
            await steps.rest()
    return at
