"""Strings that match a regular expression: the subset that schemas use, checked before it is answered."""

import random
import re
import string
from re import _parser  # type: ignore[attr-defined,unused-ignore]  # hypothesis imports it, too: then it is known
from typing import Any

_CLASSES = {
    "CATEGORY_DIGIT": string.digits,
    "CATEGORY_WORD": string.ascii_letters + "_",
    "CATEGORY_SPACE": " ",
}
_ANY = string.ascii_letters + string.digits
_TRIES = 40
_MAX_REPEAT_ABOVE_MINIMUM = 8


def matching_string(pattern: str, least: int, most: int | None, rng: random.Random) -> str | None:
    """A string that the pattern is found in, within the length limits; None when it is beyond this module."""
    try:
        tree = _parser.parse(pattern)
        for extra in range(_TRIES):
            text = _sequence(tree, rng, extra % _MAX_REPEAT_ABOVE_MINIMUM)
            if len(text) >= least and (most is None or len(text) <= most) and re.search(pattern, text):
                return text
    except (re.error, KeyError, ValueError, RecursionError):
        return None
    return None


def _sequence(tree: Any, rng: random.Random, extra: int) -> str:
    return "".join(_node(str(operation), argument, rng, extra) for operation, argument in tree)


def _node(operation: str, argument: Any, rng: random.Random, extra: int) -> str:
    match operation:
        case "LITERAL":
            return chr(argument)
        case "NOT_LITERAL":
            return rng.choice(_ANY.replace(chr(argument), ""))
        case "ANY":
            return rng.choice(_ANY)
        case "IN":
            return rng.choice(_members(argument))
        case "SUBPATTERN":
            return _sequence(argument[3], rng, extra)
        case "BRANCH":
            return _sequence(rng.choice(argument[1]), rng, extra)
        case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
            least, most, body = argument
            count = min(int(most), least + extra)
            return "".join(_sequence(body, rng, extra) for _ in range(count))
        case "AT":
            return ""
    raise ValueError(f"no generator for {operation}")


def _members(items: list[Any]) -> str:
    negated, members = False, ""
    for operation, argument in items:
        match str(operation):
            case "NEGATE":
                negated = True
            case "LITERAL":
                members += chr(argument)
            case "RANGE":
                members += "".join(map(chr, range(argument[0], min(argument[1], argument[0] + 200) + 1)))
            case "CATEGORY":
                members += _CLASSES[str(argument)]
    return "".join(c for c in _ANY + "-_ " if c not in members) if negated else members
