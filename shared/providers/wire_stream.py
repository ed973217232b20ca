"""Google's ``:streamGenerateContent?alt=sse`` form: an answer in parts, read as they come.

Each event's data is a ``GenerateContentResponse`` with a piece of the text; what is said in several of them, such as the
usage, holds as the last one says it, and the last one has the finish reason. An error in the middle comes as an event
``{"error": {…}}`` or as bare lines of JSON (google-genai looks for both). What was read is put together into the
answer that ``:generateContent`` would have given, so one reader decides what either means.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

import orjson

from shared.providers import wire
from shared.providers.base import Generation, OnText, UnknownOutcomeError
from shared.providers.transport import AnswerTooLargeError, malformed

#: A larger event is no piece of a text. Parsing as much takes the event loop a few milliseconds.
_MAX_EVENT_BYTES = 2 * 1024 * 1024
#: What holding a line costs beside its bytes.
_LINE_BYTES = 48
#: Fields of an event that say nothing here, and comments.
_UNREAD = (b"event:", b"id:", b"retry:", b":")


class StreamReader:
    """Takes a stream's bytes in whatever portions they come.

    Args:
        on_text: is given every piece of text as soon as it was read, thoughts left out.
    """

    def __init__(self, on_text: OnText) -> None:
        self._on_text = on_text
        self._buffer = bytearray()
        #: Lines of the event under way, and those that are no field of any.
        self._data: list[bytes] = []
        self._bare: list[bytes] = []
        self._held = 0
        self._begun = False
        self._texts: list[str] = []
        self._answer: dict[str, Any] = {}

    def feed(self, data: bytes) -> None:
        """Takes the next bytes.

        Raises:
            ProviderError: the stream brought an error, or makes no sense.
            AnswerTooLargeError: an event is larger than the cap.
        """
        searched = len(self._buffer)
        self._buffer += data
        start = 0
        while (end := self._buffer.find(b"\n", max(start, searched))) >= 0:
            self._line(bytes(self._buffer[start:end]).removesuffix(b"\r"))
            start = end + 1
        del self._buffer[:start]
        if len(self._buffer) + self._held > _MAX_EVENT_BYTES:
            raise AnswerTooLargeError(f"an event of the stream is larger than {_MAX_EVENT_BYTES} bytes")

    def finish(self) -> Generation:
        """The whole answer, once the stream has ended in order.

        Raises:
            UnknownOutcomeError: it ended before its last part.
            ProviderError: what ``wire.read_answer`` says of a whole answer.
        """
        self._line(bytes(self._buffer).removesuffix(b"\r"))
        self._line(b"")
        if self._bare:
            self._message(b"\n".join(self._bare))
        if not self._begun:
            raise malformed("an empty body")
        if not wire.is_finished(self._answer):
            raise UnknownOutcomeError("The provider's stream ended before its last part")
        return wire.read_answer(wire.with_text(self._answer, "".join(self._texts)))

    def _line(self, line: bytes) -> None:
        if line.startswith(b"data:"):
            self._hold(self._data, line[5:])
        elif not line and self._data:
            event, self._data, self._held = b"\n".join(self._data), [], 0
            self._message(event)
        elif line and not line.startswith(_UNREAD):
            self._hold(self._bare, line)

    def _hold(self, lines: list[bytes], line: bytes) -> None:
        lines.append(line)
        self._held += len(line) + _LINE_BYTES

    def _message(self, data: bytes) -> None:
        try:
            message = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            raise malformed(f"not JSON ({error})"[:200]) from None
        if isinstance(message, list) and message:
            message = message[0]
        if not isinstance(message, dict):
            raise malformed("JSON that is no object")
        if "error" in message:
            self._refused(message, data)
        self._begun = True
        text = wire.add_part(self._answer, message)
        if text:
            self._texts.append(text)
            self._on_text(text)

    def _refused(self, message: Mapping[str, Any], data: bytes) -> NoReturn:
        error = message["error"]
        code = error.get("code") if isinstance(error, dict) else None
        told = wire.error_from(code if isinstance(code, int) and 400 <= code < 600 else 500, data, {})
        if self._begun:
            # Some of the answer was made: whether that was billed, nobody knows.
            told.billed = None
        raise told
