"""What hypothesis draws for endpoints that read a body piece by piece: multipart forms, and jobs line by line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from io import BytesIO

import hypothesis.strategies as st
from hypothesis.strategies import SearchStrategy
from PIL import Image

from tests import factories
from tests.contract.api.hostile import LINE, ODD_VALUES, objects
from tests.contract.api.raw import Raw


def _png() -> bytes:
    file = BytesIO()
    Image.new("RGB", (16, 9)).save(file, "PNG")
    return file.getvalue()


_PNG = _png()
_PART_NAMES = st.sampled_from(
    [b'"file"', b'"sha256"', b"file", b'"other"', b'""', b'"a\\"b"', b'"\xc3\xa9"', b'"file']
)
_PART_HEADERS = st.sampled_from(
    [
        *(b"Content-Type: image/png", b"Content-Type: text/html", b"Content-Type:", b"no colon", b": empty"),
        *(
            b"Content-Transfer-Encoding: base64",
            b"X: " + b"a" * 70_000,
            b"Content-Disposition: form-data",
            b"\xff: \x00",
        ),
    ]
)
_FILES = st.sampled_from([_PNG, _PNG[:40], _PNG * 3, b"", b"\x00", b"GIF89a", b"<svg/>"]) | st.binary(
    max_size=200
)
_FILENAMES = st.sampled_from(
    [
        *(
            b"",
            b'; filename="a.png"',
            b'; filename="../../etc/passwd"',
            b'; filename="',
            b"; filename*=UTF-8''%ff%zz",
        ),
        *(b'; filename="' + b"a" * 5000 + b'"', b'; filename="\x00\r"'),
    ]
)


def forms(key: str, target: bytes) -> SearchStrategy[Raw]:
    """multipart/form-data with parts of wrong names, headers and contents, and boundaries that are none."""
    part = st.tuples(_PART_NAMES, _FILENAMES, st.lists(_PART_HEADERS, max_size=2), _FILES).map(
        lambda drawn: b"\r\n".join(
            [b"Content-Disposition: form-data; name=" + drawn[0] + drawn[1], *drawn[2], b"", drawn[3]]
        )
    )
    right = part.map(
        lambda _: b'Content-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n' + _PNG
    )
    boundary = st.sampled_from([b"x", b"x", b"x", b"", b'"x y"', b"x" * 70, b"x" * 300, b"\xff", b"-" * 10])
    between = st.sampled_from([b"\r\n--", b"\r\n--", b"\r\n--", b"\n--", b"--", b"\r\n-"])
    end = st.sampled_from([b"--\r\n", b"--\r\n", b"--", b"", b"\r\n", b"--\r\nmore", b"--" + b"-" * 5000])
    kind = st.sampled_from(
        [b"multipart/form-data; boundary=", b"multipart/form-data;boundary=", b"multipart/mixed; boundary="]
    )

    def made(drawn: tuple[bytes, bytes, list[bytes], bytes, bytes]) -> Raw:
        kind, line, parts, between, end = drawn
        body = b"".join([between + line + b"\r\n" + part for part in parts]) + between + line + end
        headers = [(b"Authorization", b"Bearer " + key.encode()), (b"Content-Type", kind + line)]
        return Raw("POST", target, headers, body.removeprefix(b"\r\n"))

    return st.tuples(kind, boundary, st.lists(part | right, max_size=4), between, end).map(made)


def lines(key: str, target: bytes, names: Sequence[str]) -> SearchStrategy[Raw]:
    """JSONL: a job on each line, some of them odd, and ends of lines that are none."""
    line = (
        st.just(json.dumps(factories.TEXT_JOB).encode())
        | objects(factories.TEXT_JOB, names)
        | ODD_VALUES
        | LINE
    )
    end = st.sampled_from([b"\n", b"\n", b"\n", b"\r\n", b"\n\n", b"\r", b" \n", "\u2028".encode(), b"\x00"])
    kind = st.sampled_from(
        [b"application/jsonl", b"application/x-ndjson", b"application/jsonl; charset=latin-1", b"text/plain"]
    )
    body = st.lists(st.tuples(line, end).map(b"".join), max_size=12).map(b"".join)
    return st.tuples(kind, body).map(
        lambda drawn: Raw(
            "POST",
            target,
            [(b"Authorization", b"Bearer " + key.encode()), (b"Content-Type", drawn[0])],
            drawn[1],
        )
    )
