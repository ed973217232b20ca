"""What hypothesis draws: requests as clients send them by mistake or in bad faith."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import hypothesis.strategies as st
from hypothesis.strategies import SearchStrategy

from tests import factories
from tests.contract.api.raw import Raw

#: Header values as RFC 9110 has them and as it does not, without what would end the line.
LINE = st.binary(max_size=60).map(lambda value: value.replace(b"\r", b"").replace(b"\n", b"")) | st.binary(
    max_size=60
).map(lambda value: bytes(byte for byte in value if 0x20 <= byte != 0x7F))
_NUMBERS = st.sampled_from(
    [
        *b"0 -1 +1 1.5 1e3 0x10 00000000000000000001 18446744073709551616 1,2 NaN".split(),
        *(b"9" * 18, b"9" * 19, b"9" * 5000, "\u0663".encode(), b"1 ", b""),
    ]
)


def _near(*values: bytes) -> SearchStrategy[bytes]:
    """One of the values, often with a piece cut out, put in or repeated."""
    base = st.sampled_from(values)
    cut = st.tuples(base, st.integers(0, 60), st.integers(0, 60), LINE | st.just(b"")).map(
        lambda drawn: drawn[0][: drawn[1]] + drawn[3] + drawn[0][drawn[2] :]
    )
    return base | cut | st.tuples(base, st.integers(2, 800)).map(lambda drawn: drawn[0] * drawn[1])


def _mostly(usual: bytes, odd: SearchStrategy[bytes]) -> SearchStrategy[bytes]:
    """What is right in nine of ten cases: behind what is wrong, nothing else is looked at."""
    return st.integers(0, 9).flatmap(lambda drawn: odd if drawn == 9 else st.just(usual))


HEADERS: Mapping[bytes, SearchStrategy[bytes]] = {
    b"If-None-Match": _near(b"*", b'"1"', b'W/"1", "2"', b'"' + b"a" * 64 + b'"', b'"unfinished') | LINE,
    b"If-Range": _near(b'"1"', b"Wed, 21 Oct 2015 07:28:00 GMT") | LINE,
    b"Range": _near(b"bytes=0-10", b"bytes=-5", b"bytes=5-", b"bytes=0-0,2-3", b"items=1-2", b"bytes=5-2")
    | _NUMBERS.map(lambda n: b"bytes=" + n + b"-" + n)
    | _NUMBERS.map(lambda n: b"bytes=-" + n)
    | LINE,
    b"Prefer": _near(b"wait=0", b'wait="0"', b"respond-async, wait=0", b"wait=0; a=b")
    | _NUMBERS.map(lambda n: b"wait=x" + n)
    | LINE,
    b"Last-Event-ID": _NUMBERS | LINE,
    b"Idempotency-Key": _near(b"a-key", b'"a-key"', b'"a\\"b"', b"a" * 255, b"a" * 256) | LINE,
    b"X-Request-ID": _near(b"an-id", b"a" * 128, b"a" * 129) | LINE,
    b"Accept": _near(b"*/*", b"text/html;q=0.1", b"application/json") | LINE,
    b"Accept-Encoding": _near(b"gzip, br;q=0", b"identity") | LINE,
    b"Content-Type": _near(
        b"application/json",
        b"application/json; charset=utf-16",
        b"application/x+json",
        b"multipart/form-data",
    )
    | LINE,
    b"Content-Encoding": _near(b"gzip", b"identity", b"deflate") | LINE,
    b"Expect": _near(b"100-continue") | LINE,
    b"Upgrade": _near(b"websocket", b"h2c") | LINE,
    b"Connection": _near(b"close", b"keep-alive", b"Upgrade, HTTP2-Settings") | LINE,
    b"Cookie": LINE,
    b"X-HTTP-Method-Override": _near(b"DELETE"),
    b"Forwarded": _near(b"for=1.2.3.4;host=evil") | LINE,
    b"Host": _near(b"evil.example", b"[::1]:80") | LINE,
}


def _authorization(key: str) -> SearchStrategy[bytes]:
    """Mostly the right one."""
    good = b"Bearer " + key.encode()
    return _mostly(good, _near(good, b"Basic dTpw", b"bearer  x", b"Bearer") | LINE)


def with_headers(key: str, targets: list[tuple[str, bytes]]) -> SearchStrategy[Raw]:
    """A request to one of the addresses with a handful of such headers, some of them twice."""
    pairs = st.sampled_from(sorted(HEADERS)).flatmap(lambda name: st.tuples(st.just(name), HEADERS[name]))
    job = json.dumps(factories.TEXT_JOB).encode()

    def made(drawn: tuple[tuple[str, bytes], list[tuple[bytes, bytes]], bytes]) -> Raw:
        (method, target), headers, authorization = drawn
        names = {name for name, _ in headers}
        whole = not names & {b"Expect", b"Upgrade", b"Connection", b"Host"} and all(
            not any((byte < 0x20 and byte != 0x09) or byte == 0x7F for byte in value) for _, value in headers
        )
        body = job if method == "POST" else b""
        if body and b"Content-Type" not in names:
            headers = [*headers, (b"Content-Type", b"application/json")]
        return Raw(method, target, [(b"Authorization", authorization), *headers], body, whole=whole)

    return st.tuples(st.sampled_from(targets), st.lists(pairs, max_size=5), _authorization(key)).map(made)


#: JSON as RFC 8259 has it, at its edges, and what others take for it.
ODD_VALUES = st.sampled_from(
    [
        *b"NaN Infinity -Infinity 1e400 -1e400 1e-400 -0 -0.0 01 1. .5 1e9 60 59.999 true null undefined".split(),
        *b"9223372036854775808 18446744073709551616".split(),
        *rb'"\ud800" "\udfff\ud800" "\uD83D\uDE00" "\u0000" "\x41" "" "\" {"\u0000":1} {"\ud800":1}'.split(),
        *(
            b'"\x00"',
            b'"\xff"',
            b'"\xc0\x80"',
            b'"\xed\xa0\x80"',
            b'"\xf4\x90\x80\x80"',
            b'"\t"',
            b'" "',
            b'"\xe2\x80\xa8"',
        ),
        *b"""[] {} [[]] [null] [{}] {"":""} {"a":1,"a":2} '' "2030-01-01T00:00:00Z" "9999-12-31T23:59:59Z" "P99999999W" "PT0S" """.split(),
        *(
            b"1" + b"0" * 400,
            b'"' + b"a" * 70_000 + b'"',
            b"[" + b"0," * 9_999 + b"0]",
            b"[" + b"0," * 20_000 + b"0]",
        ),
    ]
) | st.tuples(st.integers(1, 3000), st.sampled_from([(b"[", b"]"), (b'{"a":', b"}"), (b"[", b"")])).map(
    lambda drawn: drawn[1][0] * drawn[0] + b"1" + drawn[1][1] * drawn[0]
)
_TEXT = st.text(max_size=20).map(lambda text: json.dumps(text).encode())


def objects(base: Mapping[str, Any], names: Sequence[str]) -> SearchStrategy[bytes]:
    """The object with some fields of these names more, or of another value; a field may come twice."""

    def made(drawn: tuple[list[tuple[str, bytes]], list[tuple[str, bytes]], bytes, bytes]) -> bytes:
        outer, inner, before, after = drawn
        own = {name: json.dumps(value).encode() for name, value in base.items()}
        if inner and isinstance(base.get("input"), dict):
            nested = {name: json.dumps(value).encode() for name, value in base["input"].items()}
            own["input"] = _object([*nested.items(), *inner])
        return before + _object([*own.items(), *outer]) + after

    field = st.tuples(st.sampled_from(names), ODD_VALUES | _TEXT)
    edge = _mostly(b"", st.sampled_from([b"\xef\xbb\xbf", b" \r\n", b"\x00", b",", b"}", b"\xff", b"//"]))
    return st.tuples(st.lists(field, max_size=3), st.lists(field, max_size=3), edge, edge).map(made)


def _object(fields: list[tuple[str, bytes]]) -> bytes:
    return b"{" + b",".join(b"%s:%s" % (json.dumps(name).encode(), value) for name, value in fields) + b"}"


def bodies(key: str, targets: Mapping[bytes, Mapping[str, Any]], names: Sequence[str]) -> SearchStrategy[Raw]:
    """A JSON body for one of the addresses, by what would be right there."""
    headers = [(b"Authorization", b"Bearer " + key.encode()), (b"Content-Type", b"application/json")]

    def made(target: bytes) -> SearchStrategy[Raw]:
        body = st.one_of(*[objects(targets[target], names)] * 4, ODD_VALUES, st.binary(max_size=200))
        keys = st.lists(
            st.sampled_from([b"a", b"b", b"c"]).map(lambda key: (b"Idempotency-Key", key)), max_size=1
        )
        return st.tuples(body, keys).map(lambda drawn: Raw("POST", target, [*headers, *drawn[1]], drawn[0]))

    return st.sampled_from(sorted(targets)).flatmap(made)


_ESCAPES = st.sampled_from(
    [
        *rb"""%00 %ff %zz % %2 %2F %0d%0a + %C0%80 %ED%A0%80 ; # .. %2e%2e // ' " %22 \ %5C {} $ %F0%9F%8D%8C""".split(),
        b"a" * 3000,
    ]
)
_WORDS = st.lists(_ESCAPES | st.from_regex(rb"[A-Za-z0-9_.~-]{0,12}", fullmatch=True), max_size=4).map(
    b"".join
)


def addresses(key: str, cursor: bytes, paths: list[bytes]) -> SearchStrategy[Raw]:
    """Queries and paths: cursors with bytes changed, escapes of what is no text, values of the wrong sort."""
    broken = st.tuples(st.integers(0, len(cursor)), _WORDS, st.integers(0, len(cursor))).map(
        lambda drawn: cursor[: drawn[0]] + drawn[1] + cursor[drawn[2] :]
    )
    names = st.sampled_from(
        b"cursor limit state kind model priority tag metadata created_after created_before q include last_event_id "
        b"finished_after finished_before after".split()
    )
    pair = st.tuples(names, broken | _WORDS | _NUMBERS.map(lambda n: n.replace(b" ", b"+"))).map(b"=".join)
    query = st.lists(pair | _WORDS, max_size=4).map(b"&".join)
    own = st.sampled_from(paths)
    path = own | st.tuples(own, _WORDS).map(b"/".join) | _WORDS.map(lambda words: b"/api/v1/" + words)
    headers = [(b"Authorization", b"Bearer " + key.encode())]
    return st.tuples(st.sampled_from(["GET", "GET", "GET", "HEAD", "DELETE", "POST"]), path, query).map(
        lambda drawn: Raw(drawn[0], drawn[1] + b"?" + drawn[2], headers, framed=True)
    )


_HIDDEN = b"GET /api/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
_LENGTHS = st.sampled_from(
    [b"0", b"5", b"+5", b"-1", b"5, 5", b"5,6", b"0x5", b"5 5", b"1e1", b"9" * 30, b"", b" 5", b"five"]
)
_CODINGS = st.sampled_from(
    [
        b"chunked",
        b"Chunked",
        b"xchunked",
        b"chunked, identity",
        b"gzip, chunked",
        b"identity",
        b"\x0bchunked",
        b"chunked\x00",
    ]
)
_CHUNKS = st.lists(
    st.sampled_from(
        [
            *(b"0\r\n\r\n", b"2\r\n{}\r\n", b"1;a=b\r\n{\r\n", b"g\r\n", b"-1\r\n", b"ffffffffffffffff\r\n"),
            *(b"2\n{}\n", b"\r\n", b"0\r\nX: y\r\n\r\n", b"5\r\nab", b"1;" + b"a" * 70_000, _HIDDEN),
        ]
    ),
    max_size=5,
).map(b"".join)


def framings(key: str) -> SearchStrategy[Raw]:
    """Content-Length and Transfer-Encoding that contradict the body, each other or the standard, with a request hidden in it."""
    length = st.tuples(st.sampled_from([b"Content-Length", b"content-length ", b"Content-Length"]), _LENGTHS)
    coding = st.tuples(
        st.sampled_from([b"Transfer-Encoding", b"Transfer-Encoding ", b"transfer-encoding"]), _CODINGS
    )
    headers = [(b"Authorization", b"Bearer " + key.encode()), (b"Content-Type", b"application/json")]
    right = st.just((b"Transfer-Encoding", b"chunked")) | st.sampled_from([b"0", b"2", b"5"]).map(
        lambda number: (b"Content-Length", number)
    )
    framing = st.lists(right, min_size=1, max_size=1) | st.lists(length | coding, min_size=1, max_size=3)
    body = _CHUNKS | st.sampled_from([b"", b"{}", b"{}" + _HIDDEN, _HIDDEN])
    target = st.sampled_from([b"/api/v1/jobs", b"/api/v1/jobs/cancel"])
    return st.tuples(target, framing, body).map(
        lambda drawn: Raw(
            "POST",
            drawn[0],
            [*headers, *drawn[1]],
            drawn[2],
            whole=False,
            framed=False,
            ambiguous=len(drawn[1]) > 1,
        )
    )
