"""Reading Google's streams, cut into whatever portions the network makes of them."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from shared.providers.base import (
    PermanentError,
    ProviderError,
    RateLimitedError,
    RetryableError,
    UnknownOutcomeError,
    Usage,
)
from shared.providers.transport import AnswerTooLargeError
from shared.providers.wire_stream import StreamReader


def part(
    text: str | None = None, *, finish: Any = None, thought: bool = False, **more: Any
) -> dict[str, Any]:
    candidate: dict[str, Any] = {"index": 0}
    if text is not None:
        candidate["content"] = {"role": "model", "parts": [{"text": text, "thought": thought}]}
    if finish is not None:
        candidate["finishReason"] = finish
    return {"candidates": [candidate], **more}


def sse(*messages: Any, end: bytes = b"\r\n") -> bytes:
    return b"".join(b"data: " + orjson.dumps(message) + end + end for message in messages)


WHOLE = sse(
    part("Grübel, ", thought=True, usageMetadata={"promptTokenCount": 3}),
    part("Hällo "),
    part("🍌\n"),
    part(
        "!", finish="STOP", usageMetadata={"promptTokenCount": 3, "candidatesTokenCount": 5}, responseId="r"
    ),
)


def read(data: bytes, step: int = 1_000_000) -> tuple[Any, list[str]]:
    pieces: list[str] = []
    reader = StreamReader(pieces.append)
    for start in range(0, len(data), step):
        reader.feed(data[start : start + step])
    return reader.finish(), pieces


@pytest.mark.parametrize("step", [1, 2, 3, 7, 64, 1_000_000])
@pytest.mark.parametrize(
    "data", [WHOLE, WHOLE.replace(b"\r\n", b"\n"), WHOLE.rstrip(), b": hello\n\n" + WHOLE]
)
def test_the_same_text_however_it_is_cut(data: bytes, step: int) -> None:
    answer, pieces = read(data, step)
    assert pieces == ["Hällo ", "🍌\n", "!"]
    assert (answer.text, answer.finish_reason) == ("Hällo 🍌\n!", "stop")
    assert answer.usage == Usage(input_tokens=3, output_tokens=5)
    assert answer.upstream_request_id == "r"


def test_pieces_are_given_before_the_end() -> None:
    pieces: list[str] = []
    reader = StreamReader(pieces.append)
    reader.feed(sse(part("one ")))
    assert pieces == ["one "]
    reader.feed(b"data: {")
    assert pieces == ["one "]


def test_data_on_several_lines_is_one_event() -> None:
    lines = orjson.dumps(part("x", finish="STOP"), option=orjson.OPT_INDENT_2).split(b"\n")
    answer, _ = read(b"event: message\nid: 7\n" + b"".join(b"data:" + line + b"\n" for line in lines) + b"\n")
    assert answer.text == "x"


@pytest.mark.parametrize(
    ("tail", "error", "code", "billed"),
    [
        (b"", UnknownOutcomeError, "connection_lost", None),
        (sse({"error": {"code": 503, "message": "busy"}}), RetryableError, "provider_unavailable", None),
        (sse({"error": {"code": 429, "message": "busy"}}), RateLimitedError, "rate_limited", None),
        (sse({"error": {"message": "no number"}}), RetryableError, "provider_unavailable", None),
        (sse({"error": "no object"}), RetryableError, "provider_unavailable", None),
        # As google-genai expects an error, too: without the field's name, over several lines.
        (b'{\n "error": {\n  "code": 400, "message": "x"\n }\n}\n', PermanentError, "invalid_request", None),
        (b"data: {broken\n\n", RetryableError, "malformed_response", None),
        (b"data: 7\n\n", RetryableError, "malformed_response", None),
        (b"<html>\n", RetryableError, "malformed_response", None),
        (
            sse(part(finish="SAFETY", usageMetadata={"promptTokenCount": 3})),
            PermanentError,
            "safety_blocked",
            True,
        ),
        (sse(part(finish="MALFORMED_RESPONSE")), RetryableError, "malformed_response", None),
    ],
)
def test_what_may_come_after_the_first_part(
    tail: bytes, error: type[ProviderError], code: str, billed: bool | None
) -> None:
    with pytest.raises(error) as caught:
        read(sse(part("one ")) + tail)
    assert (caught.value.error_code, caught.value.billed) == (code, billed)


def test_an_error_before_the_first_part_was_not_billed() -> None:
    with pytest.raises(RetryableError) as caught:
        read(sse({"error": {"code": 503, "message": "busy"}}))
    assert caught.value.billed is False


def test_a_stream_of_thoughts_alone_is_not_whole() -> None:
    with pytest.raises(UnknownOutcomeError):
        read(sse(part("hm", thought=True)))


def test_a_blocked_prompt_has_no_candidate() -> None:
    with pytest.raises(PermanentError) as caught:
        read(sse({"promptFeedback": {"blockReason": "SAFETY"}}))
    assert caught.value.error_code == "safety_blocked"


@pytest.mark.parametrize("data", [b"data: " + b"x" * 3_000_000, b"data: x\n" * 400_000])
def test_an_event_without_an_end_is_given_up(data: bytes) -> None:
    with pytest.raises(AnswerTooLargeError):
        read(data, 65_536)


@pytest.mark.parametrize(
    "odd",
    [
        {"candidates": "x"},
        {"candidates": [7]},
        {"candidates": [{"content": {"parts": [{"text": 7}, 3, None]}}]},
        {"candidates": [{"content": "x"}], "usageMetadata": "x", "modelVersion": 4},
    ],
)
def test_odd_parts_break_nothing(odd: Any) -> None:
    answer, _ = read(sse(odd, part("x", finish="STOP")))
    assert answer.text == "x"
