"""Parses JSON that carries pictures, without parsing the pictures.

A 4K picture is 20 MB of base64 in one JSON string. The parser would copy it, and hold the interpreter lock
for 40 ms while it does, whatever thread it runs in. So long strings are cut out first, and stay where they are.
"""

from __future__ import annotations

from typing import Any

import orjson

#: Shorter strings are left to the parser.
_LONG = 64 * 1024


def load(body: bytes | bytearray, name: str) -> tuple[Any, dict[str, memoryview]]:
    """The parsed body, and the long strings that were members called ``name``.

    In the parsed body each of them is replaced by a short string, its key in the second result. Only strings
    without a backslash are cut out, so their bytes are their characters.

    Raises:
        orjson.JSONDecodeError: not JSON.
    """
    pieces: list[bytes | memoryview] = []
    cut: dict[str, memoryview] = {}
    view = memoryview(body)
    kept, found = 0, _string_after(body, name, 0)
    while found is not None:
        start, end = found
        if end - start > _LONG and body.find(b"\\", start, end) < 0:
            key = f"cut:{start}"
            cut[key] = view[start:end]
            pieces += [view[kept:start], key.encode()]
            kept = end
        found = _string_after(body, name, end)
    if not cut:
        return orjson.loads(body), cut
    return orjson.loads(b"".join([*pieces, view[kept:]])), cut


def _string_after(body: bytes | bytearray, name: str, position: int) -> tuple[int, int] | None:
    """Where the next string member of this name begins and ends, quotes left out.

    A quote within a JSON string is escaped, so the name in its quotes is never a part of some text.
    """
    member = f'"{name}"'.encode()
    while (at := body.find(member, position)) >= 0:
        position = at + len(member)
        head = body[position : position + 16].lstrip()
        if head[:1] != b":" or head[1:].lstrip()[:1] != b'"':
            continue
        start = body.index(b'"', position) + 1
        end = body.find(b'"', start)
        return (start, end) if end >= 0 else None
    return None
