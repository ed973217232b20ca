"""Server-sent events, with reconnects that the caller does not see: each event once, in order.

The stream's format is of the HTML standard, https://html.spec.whatwg.org/multipage/server-sent-events.html.
"""

from __future__ import annotations

import codecs
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

import httpx

from shared.client.decoding import decode
from shared.client.errors import UnexpectedAnswer
from shared.client.models import FINAL, Delta, Event
from shared.client.retrying import Retries, Tries, no_answer, opened
from shared.client.steps import Emit, Opened, Pause, Read, Request, Steps

#: The server sends a comment every 15 s; who hears nothing for so long has lost it.
SILENCE_SECONDS = 45.0
#: A connection that lasted for so long was a good one.
_ALIVE_SECONDS = 10.0
#: Characters of one event at most; ours have a few thousand.
_MAX_EVENT = 1_000_000
#: A piece of a job's text as it is made; it has no id and is no event of those that are kept.
_DELTA = "delta"
_FINAL_TYPES = frozenset(f"job.{state}" for state in FINAL)


@dataclass(frozen=True, slots=True)
class Block:
    """What stood between two empty lines."""

    id: str | None
    event: str | None
    data: str | None
    retry: float | None


class Parser:
    """Bytes in, blocks out, wherever the bytes are cut."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("replace")
        self._rest = ""
        self._fields: list[tuple[str, str]] = []
        self._size = 0

    def feed(self, data: bytes) -> Iterator[Block]:
        """Raises: UnexpectedAnswer: an event without an end."""
        text = self._rest + self._decoder.decode(data)
        held = text.endswith("\r")  # the line feed that belongs to it may be on its way
        lines = (text[:-1] if held else text).replace("\r\n", "\n").replace("\r", "\n").split("\n")
        self._rest = lines.pop() + ("\r" if held else "")
        if self._size + len(self._rest) > _MAX_EVENT:
            raise UnexpectedAnswer("the event stream has an event without an end")
        for line in lines:
            if line:
                self._take(line)
            elif self._fields:
                yield self._block()

    def _take(self, line: str) -> None:
        name, _, value = line.partition(":")
        self._fields.append((name, value.removeprefix(" ")))
        self._size += len(line)

    def _block(self) -> Block:
        fields, self._fields, self._size = self._fields, [], 0
        ids = [value for name, value in fields if name == "id" and "\0" not in value]
        data = [value for name, value in fields if name == "data"]
        names = [value for name, value in fields if name == "event"]
        retries = [value for name, value in fields if name == "retry" and value.isascii() and value.isdigit()]
        return Block(
            id=ids[-1] if ids else None,
            event=names[-1] if names else None,
            data="\n".join(data) if data else None,
            retry=int(retries[-1]) / 1000 if retries else None,
        )


def texts(job_id: str, retries: Retries) -> Steps[None]:
    """Emits each ``Delta`` of a job's text, in order and without overlaps or gaps; ends with the job."""
    yield from events(job_id, None, retries, wanted=Delta)


def events(
    job_id: str | None, last_event_id: int | None, retries: Retries, *, wanted: type[Event | Delta] = Event
) -> Steps[None]:
    """Emits each ``Event``: of a job until its final one, or of everything in the project, without an end.

    Args:
        wanted: what is given to the caller.

    Where the connection is lost it comes back and goes on after the last event. ``retries`` counts connections that
    brought nothing and did not last.

    Raises:
        ApiError: the stream was refused, at first or on coming back.
        NoAnswer: it could not be had again.
    """
    path = "/api/v1/events" if job_id is None else f"/api/v1/jobs/{quote(job_id, safe='')}/events"
    reader = _Reader(last_event_id, wanted, once=job_id is not None)
    request = Request("GET", path, headers={"accept": "text/event-stream"}, read_timeout=SILENCE_SECONDS)
    tries = Tries(retries)
    while True:
        reader.heard = False
        last = None if reader.last is None else str(reader.last)
        stream = yield from opened(request.with_headers(last_event_id=last), retries)
        if stream.response.status_code == 204:  # nothing is to come
            return
        failure: httpx.RequestError | None = None
        since = time.monotonic()
        try:
            yield from reader.read(stream)
        except httpx.RequestError as error:
            failure = error
        if reader.ended:
            return
        if reader.heard or time.monotonic() - since > _ALIVE_SECONDS:
            tries = Tries(retries)
        pause = tries.next_pause(None)
        if pause is None:
            lost = failure or httpx.ReadError("the server ended it")
            raise no_answer(request, lost, tries.made) from failure
        yield Pause(reader.retry + pause)


class _Reader:
    """What a stream has told so far, across connections."""

    def __init__(self, last: int | None, wanted: type[Event | Delta], *, once: bool) -> None:
        self.last = last
        self.wanted = wanted
        self.text = _Text()
        self.once = once
        self.retry = 0.0
        self.ended = False
        self.heard = False

    def read(self, stream: Opened) -> Steps[None]:
        parser = Parser()
        while True:
            data: bytes | None = yield Read(stream)
            if data is None:
                return
            for block in parser.feed(data):
                item = self._item(block)
                if isinstance(item, self.wanted):
                    yield Emit(item)
                if self.once and isinstance(item, Event) and item.type in _FINAL_TYPES:
                    self.ended = True
                    return

    def _item(self, block: Block) -> Event | Delta | None:
        """The event of a block, or the piece of text, unless it has been told."""
        if block.retry is not None:
            self.retry = min(block.retry, 60.0)
        if block.data is None:
            if block.id is not None and block.id.isascii() and block.id.isdigit():
                self.last = max(self.last or 0, int(block.id))  # where the stream begins
            return None
        self.heard = True
        if block.event == _DELTA:
            return self.text.new_of(decode(Delta, _json(block.data)))
        event = decode(Event, _json(block.data))
        if self.last is not None and event.id <= self.last:
            return None
        self.last = event.id
        return event


class _Text:
    """How much of which attempt's text has been told."""

    def __init__(self) -> None:
        self._attempt = 0
        self._length = 0

    def new_of(self, delta: Delta) -> Delta | None:
        """What a piece adds. One beyond a gap is left out: all that was lost comes again before the end."""
        if delta.attempt > self._attempt:
            self._attempt, self._length = delta.attempt, 0
        known = self._length - delta.offset
        text = delta.text[known:] if known >= 0 else ""
        if delta.attempt < self._attempt or not text:
            return None
        offset, self._length = self._length, self._length + len(text)
        return replace(delta, offset=offset, text=text)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise UnexpectedAnswer("the event stream has an event that is not JSON") from error
