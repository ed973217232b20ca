"""JSON with pictures in it, parsed without holding the interpreter for long.

The parser takes a body in one step: 27 MB of base64 are 50 ms and more in which no other request moves, on whatever
thread. So long strings of base64, with ``data:…,`` before it or not, are cut out of the body, what is left is parsed, and they are
put back.
"""

from __future__ import annotations

import re
import secrets
import string
from typing import Any

import orjson

#: Shorter ones stay where they are, bytes.
_LONG = 64 * 1024
#: Quotes looked at; a body of honest pictures has a few dozen.
_QUOTES_AT_MOST = 20_000
_SLICE = 256 * 1024
#: What stands before the base64 of a data URL; nothing in it is an escape.
_DATA_URL = re.compile(rb"data:[A-Za-z0-9/+.;=-]{0,100},", re.IGNORECASE)
_BASE64 = (string.ascii_letters + string.digits + "+/=").encode()


def loads(body: bytes) -> Any:
    """As ``orjson.loads``.

    Raises:
        orjson.JSONDecodeError: it is not JSON.
    """
    found = _long_strings(body)
    if not found:
        return orjson.loads(body)
    mark = secrets.token_hex(16)
    pieces, texts, end = [], {}, 0
    for start, stop in found:
        name = f"{mark}{start}"
        texts[name] = str(memoryview(body)[start:stop], "ascii")
        pieces += [body[end:start], name.encode()]
        end = stop
    try:
        parsed = orjson.loads(b"".join([*pieces, body[end:]]))
    except orjson.JSONDecodeError:
        return orjson.loads(body)  # for the error's true place
    return _put_back(parsed, texts)


def _long_strings(body: bytes) -> list[tuple[int, int]]:
    """Where values that are nothing but base64 begin and end. None where the body is not worth the trouble."""
    found: list[tuple[int, int]] = []
    at = -1
    for _ in range(_QUOTES_AT_MOST // 2):
        start = body.find(b'"', at + 1) + 1
        if not start:
            return found
        at = body.find(b'"', start)
        while at > 0 and _is_escaped(body, at):
            at = body.find(b'"', at + 1)
        if at < 0:
            return found
        if at - start >= _LONG and _is_base64(body, start, at) and not _is_key(body, at):
            found.append((start, at))
    return []


def _is_escaped(body: bytes, at: int) -> bool:
    before = body[max(0, at - 64) : at]
    return (len(before) - len(before.rstrip(b"\\"))) % 2 == 1


def _is_base64(body: bytes, start: int, stop: int) -> bool:
    if head := _DATA_URL.match(body, start, stop):
        start = head.end()
    return not any(
        body[at : min(at + _SLICE, stop)].translate(None, _BASE64) for at in range(start, stop, _SLICE)
    )


def _is_key(body: bytes, closing: int) -> bool:
    return body[closing + 1 : closing + 100].lstrip(b" \t\r\n")[:1] in {b":", b""}


def _put_back(parsed: Any, texts: dict[str, str]) -> Any:
    """In place, and level by level: a hostile depth must not overflow the stack."""
    if isinstance(parsed, str):
        return texts.get(parsed, parsed)
    level = [parsed]
    while level:
        deeper = []
        for item in level:
            for key, value in item.items() if isinstance(item, dict) else enumerate(item):
                if isinstance(value, str):
                    item[key] = texts.get(value, value)
                elif isinstance(value, dict | list):
                    deeper.append(value)
        level = deeper
    return parsed
