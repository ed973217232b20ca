"""A request's headers, found by name."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import Receive, Scope, Send


class IndexedHeaders(Headers):
    """Starlette's, which walks through all of them for each name; a submit asks for eight. Of several the first counts."""

    def __init__(self, raw: list[tuple[bytes, bytes]]) -> None:
        self._list = raw
        self._first = dict(reversed(raw))

    def __getitem__(self, key: str) -> str:
        return self._first[_name(key)].decode("latin-1")

    def __contains__(self, key: Any) -> bool:
        return _name(key) in self._first

    def get(self, key: str, default: Any = None) -> Any:
        found = self._first.get(_name(key))
        return default if found is None else found.decode("latin-1")


@lru_cache(maxsize=256)
def _name(key: str) -> bytes:
    return key.lower().encode("latin-1")


class DirectRequest(Request):
    """What handlers of direct routes (``api.shortcut``) are given."""

    #: In the place of Starlette's property, which is called each time.
    headers: Headers = IndexedHeaders([])

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        super().__init__(scope, receive, send)
        self.headers = IndexedHeaders(scope["headers"])
