"""The parts of the client that need no server."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.client import (
    ApiError,
    AsyncPlantain,
    ConfigurationError,
    Plantain,
    RateLimited,
    Retries,
    Unavailable,
    UnexpectedAnswer,
)
from shared.client.connection import USER_AGENT, connection
from shared.client.decoding import decode
from shared.client.models import JobsCancelled, Output, Summary
from shared.client.retrying import Tries
from shared.client.streams import Parser

KEY = "pln_0123456789_a-secret-of-many-characters"
JOB = {
    "id": "0198a7c2-6f0e-7c3a-9a53-0f6d2b9d8e11",
    "kind": "text.generate",
    "model": "gemini-flash",
    "priority": "standard",
    "state": "thawing",
    "version": 1,
    "attempt": 0,
    "max_attempts": 5,
    "timeout": 300.0,
    "on_unknown": "retry",
    "created_at": "2026-11-25T17:00:00.5Z",
    "scheduled_at": "2026-11-25T17:00:00Z",
    "cost_usd": "0.10",
    "status_url": "/s",
    "result_url": "/r",
    "cancel_url": "/c",
    "events_url": "/e",
    "invented_later": [1],
}


def client(answer: Callable[[httpx.Request], httpx.Response], **more: Any) -> Plantain:
    """On a server that our API has no means to be: one that limits callers, a proxy, another program."""
    quick = Retries(tries=5, patience=5, first=0.001, longest=0.01)
    return Plantain(
        "http://api.test", KEY, transport=httpx.MockTransport(answer), **{"retries": quick, **more}
    )


class TestAnswers:
    def test_a_newer_server_may_say_more(self) -> None:
        job = client(lambda _: httpx.Response(200, json=JOB)).get("1")
        assert (job.state, job.is_final) == ("thawing", False)
        assert job.created_at == datetime(2026, 11, 25, 17, 0, 0, 500_000, tzinfo=UTC)
        assert job.cost_usd == Decimal("0.10")
        assert job.raw["invented_later"] == [1]

    def test_another_programs_answer_is_told_from_ours(self) -> None:
        with pytest.raises(UnexpectedAnswer, match="is this the address of Plantain"):
            client(lambda _: httpx.Response(200, text="<html>")).get("1")
        with pytest.raises(UnexpectedAnswer, match="Job"):
            client(lambda _: httpx.Response(200, json={"id": "1"})).get("1")
        with pytest.raises(UnexpectedAnswer):
            client(lambda _: httpx.Response(200, json=[])).get("1")

    def test_a_proxys_page_is_shown_short_and_harmless(self) -> None:
        page = "\x1b[31mBad gateway\n" + 5000 * "x"
        with pytest.raises(ApiError) as caught:
            client(lambda _: httpx.Response(418, text=page)).get("1")
        assert caught.value.code == "not_a_problem"
        assert "Bad gateway" in str(caught.value)
        assert "\x1b" not in str(caught.value)
        assert len(str(caught.value)) < 400

    def test_a_redirect_is_not_followed_with_the_key(self) -> None:
        asked = []

        def answer(request: httpx.Request) -> httpx.Response:
            asked.append(request.url.host)
            return httpx.Response(302, headers={"location": "http://elsewhere.test/"})

        with pytest.raises(ApiError):
            client(answer).get("1")
        assert asked == ["api.test"]

    def test_nested_objects_and_maps(self) -> None:
        output = decode(Output, {"text": "x", "images": []})
        assert (output.text, output.images, output.finish_reason) == ("x", (), None)
        with pytest.raises(UnexpectedAnswer):
            decode(Summary, {"states": [], "models": [], "waiting": {}, "queues": [], "cost_usd": {}})
        with pytest.raises(UnexpectedAnswer):
            decode(JobsCancelled, None)


class TestRetries:
    def test_busy_and_away_are_waited_out_under_one_key(self) -> None:
        keys: list[str] = []
        statuses = iter([429, 503, 502, 409])

        def answer(request: httpx.Request) -> httpx.Response:
            keys.append(request.headers["idempotency-key"])
            status = next(statuses, 202)
            if status == 202:
                return httpx.Response(202, json=JOB)
            code = "idempotency_key_in_use" if status == 409 else "busy"
            return httpx.Response(
                status, json={"code": code, "detail": "Later."}, headers={"Retry-After": "0"}
            )

        client(answer).submit("text.generate", {"prompt": "x"})
        assert len(keys) == 5
        assert len(set(keys)) == 1
        client(answer).submit("text.generate", {"prompt": "x"})
        assert keys[5] != keys[0]

    @pytest.mark.parametrize(("status", "kind"), [(429, RateLimited), (503, Unavailable)])
    def test_an_end_comes_and_says_how_long_the_server_asked_for(
        self, status: int, kind: type[ApiError]
    ) -> None:
        asked = []

        def answer(request: httpx.Request) -> httpx.Response:
            asked.append(request)
            return httpx.Response(
                status, json={"code": "busy", "detail": "Later."}, headers={"Retry-After": "3600"}
            )

        started = time.monotonic()
        with pytest.raises(kind) as caught:
            client(answer).get("1")
        assert time.monotonic() - started < 5, "nobody waits for what is longer than its patience"
        assert (len(asked), caught.value.retry_after) == (1, 3600)

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 410, 413, 422, 500])
    def test_what_will_not_change_is_asked_once(self, status: int) -> None:
        asked = []

        def answer(request: httpx.Request) -> httpx.Response:
            asked.append(request)
            return httpx.Response(status, json={"code": "wrong", "detail": "No."})

        with pytest.raises(ApiError, match=r"No\."):
            client(answer).get("1")
        assert len(asked) == 1

    def test_where_too_many_wait_it_asks_instead(self) -> None:
        prefers = []

        def answer(request: httpx.Request) -> httpx.Response:
            prefers.append(request.headers.get("prefer"))
            if prefers[-1]:
                return httpx.Response(503, json={"code": "too_many_waiting"}, headers={"Retry-After": "0"})
            return httpx.Response(200, json={**JOB, "state": "succeeded"})

        assert client(answer).wait("1").succeeded
        assert prefers == ["wait=60", None]

    def test_pauses_grow_differ_and_honour_the_server(self) -> None:
        pauses = [
            [tries.next_pause(None) or 0 for _ in range(9)]
            for tries in (Tries(Retries(tries=10, patience=600)) for _ in range(50))
        ]
        ceilings = [0.25 * 2**n for n in range(6)] + [10] * 3
        assert all(pause <= ceiling for row in pauses for pause, ceiling in zip(row, ceilings, strict=True))
        assert len({row[-1] for row in pauses}) == 50
        assert all(8 <= (Tries(Retries()).next_pause(8) or 0) <= 10 for _ in range(50))
        assert Tries(Retries(tries=1)).next_pause(None) is None

    async def test_cancelling_the_caller_ends_the_waiting(self) -> None:
        transport = httpx.MockTransport(lambda _: httpx.Response(503, json={"code": "away"}))
        patient = Retries(tries=100, patience=600, first=60, longest=60)
        async with AsyncPlantain("http://api.test", KEY, transport=transport, retries=patient) as waiting:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(waiting.get("1"), 0.1)


class TestConnection:
    @pytest.mark.parametrize(
        ("url", "word"),
        [
            ("", "PLANTAIN_URL"),
            ("localhost:8000", "http://"),
            ("ftp://api", "http://"),
            ("http://user:password@api", "nothing else"),
            ("http://api/?key=1", "nothing else"),
            ("http://api:port", "cannot be read"),
        ],
    )
    def test_an_address_that_cannot_be_one_is_refused(self, url: str, word: str) -> None:
        with pytest.raises(ConfigurationError, match=word) as caught:
            connection(url, KEY, {})
        assert "password" not in str(caught.value)

    @pytest.mark.parametrize("key", ["", "  ", f"{KEY}\nX-Evil: 1", f"{KEY} {KEY}", "ключ-секрет"])
    def test_a_key_that_cannot_be_one_is_refused_and_not_shown(self, key: str) -> None:
        with pytest.raises(ConfigurationError) as caught:
            connection("http://api", key, {})
        assert "secret" not in str(caught.value)
        assert "секрет" not in str(caught.value)

    def test_both_come_from_the_environment_or_a_file(self, tmp_path: Path) -> None:
        path = tmp_path / "key"
        path.write_text(f"{KEY}\n")
        environment = {"PLANTAIN_URL": "https://api/below/", "PLANTAIN_API_KEY_FILE": str(path)}
        found = connection(None, None, environment)
        assert (str(found.url), found.key) == ("https://api/below/", KEY)
        assert connection(None, None, {**environment, "PLANTAIN_API_KEY": "other"}).key == "other"
        with pytest.raises(ConfigurationError, match="no-such-file"):
            connection(None, None, {**environment, "PLANTAIN_API_KEY_FILE": "no-such-file"})
        assert KEY not in repr(found)

    def test_requests_go_below_the_address_and_say_who_asks(self) -> None:
        asked: list[httpx.Request] = []

        def answer(request: httpx.Request) -> httpx.Response:
            asked.append(request)
            return httpx.Response(200, json=JOB)

        with Plantain("https://api.test/below/", KEY, transport=httpx.MockTransport(answer)) as made:
            made.get("a/../b?c")
        assert asked[0].url.raw_path == b"/below/api/v1/jobs/a%2F..%2Fb%3Fc"
        assert asked[0].headers["user-agent"] == USER_AGENT
        assert asked[0].headers["authorization"] == f"Bearer {KEY}"
        assert KEY not in repr(made)

    def test_what_json_cannot_say_is_refused_before_it_is_sent(self) -> None:
        never = client(lambda _: pytest.fail("was sent"))
        with pytest.raises(ValueError, match="zone"):
            never.submit("text.generate", {}, scheduled_at=datetime(2026, 1, 1))  # noqa: DTZ001
        with pytest.raises(ValueError, match="JSON"):
            never.submit("text.generate", {"temperature": float("nan")})
        with pytest.raises(TypeError, match="object"):
            never.submit("text.generate", {"prompt": object()})


def test_a_text_is_told_without_overlaps_gaps_or_what_is_void() -> None:
    """As a server would that lost pieces, a connection that broke and an attempt that failed make it look."""

    def block(attempt: int, offset: int, text: str) -> str:
        data = json.dumps({"job_id": "1", "attempt": attempt, "offset": offset, "text": text})
        return f"event: delta\ndata: {data}\n\n"

    final = {**JOB, "state": "succeeded"}
    event = {
        "id": 9,
        "type": "job.succeeded",
        "time": JOB["created_at"],
        "job_id": "1",
        "version": 3,
        "data": {},
    }
    end = f"id: 9\nevent: job.succeeded\ndata: {json.dumps({**event, 'job': final})}\n\n"
    bodies = iter(
        [
            block(1, 0, "void") + block(2, 0, "One ") + block(1, 4, "late") + block(2, 9, "lost"),
            block(2, 0, "One tw")
            + block(2, 6, "o thr")
            + block(2, 4, "two thr")
            + block(2, 0, "One two three")
            + end,
        ]
    )
    with client(lambda _: httpx.Response(200, text=next(bodies))) as made:
        told = [(delta.attempt, delta.offset, delta.text) for delta in made.text("1")]
    assert told == [(1, 0, "void"), (2, 0, "One "), (2, 4, "tw"), (2, 6, "o thr"), (2, 11, "ee")]


class TestParser:
    STREAM = (
        '\ufeff: hello\r\n\r\nretry: 1500\nid: 6\n\nid: 7\nevent: job.queued\ndata: {"ä":\ndata: 1}\n\n'
        "data\r\rid: 8\0\ndata:  two\nunknown: 1\n\n:\n\nid: 9\ndata: cut off"
    ).encode()
    BLOCKS: ClassVar = [
        (None, None, None),
        ("6", None, 1.5),
        ("7", '{"ä":\n1}', None),
        (None, "", None),
        (None, " two", None),
        (None, None, None),
    ]

    @given(st.lists(st.integers(1, 40)))
    def test_blocks_are_the_same_wherever_the_bytes_are_cut(self, sizes: list[int]) -> None:
        parser, rest, found = Parser(), self.STREAM, []
        for size in [*sizes, len(self.STREAM)]:
            piece, rest = rest[:size], rest[size:]
            found += [(block.id, block.data, block.retry) for block in parser.feed(piece)]
        assert found == self.BLOCKS

    def test_an_event_without_an_end_is_not_kept_for_ever(self) -> None:
        parser = Parser()
        with pytest.raises(UnexpectedAnswer, match="without an end"):
            for _ in range(200):
                list(parser.feed(b"data: " + 10_000 * b"x"))
        parser = Parser()
        with pytest.raises(UnexpectedAnswer, match="without an end"):
            for _ in range(200):
                list(parser.feed(b"data: " + 10_000 * b"x" + b"\n"))

    def test_an_event_that_is_no_json_is_told(self) -> None:
        answer = httpx.Response(200, content=b"data: {\n\n", headers={"content-type": "text/event-stream"})
        with pytest.raises(UnexpectedAnswer, match="not JSON"):
            list(client(lambda _: answer).stream("1"))
