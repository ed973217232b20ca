"""The benchmark's arithmetic and its tables: a figure that is wrong here is wrong everywhere."""

from __future__ import annotations

import os
import time
from dataclasses import replace

import pytest

from scripts.benching import report
from scripts.benching.figures import Sample, medians, paired, percentile, waves
from scripts.benching.meters import Meter, rss_mib
from scripts.benching.parts import turns
from scripts.benching.wire import Answer, Connection, Target, WireError
from scripts.cli import bench


def sample(subject: str, repeat: int, **figures: float) -> Sample:
    return Sample(
        "submit", "8 connections", subject, repeat, {n.replace("_", " "): v for n, v in figures.items()}
    )


@pytest.mark.parametrize(("share", "value"), [(0.5, 50), (0.95, 95), (0.99, 99), (1.0, 100), (0.0, 1)])
def test_a_percentile_is_one_of_the_values(share: float, value: float) -> None:
    assert percentile(range(1, 101), share) == value


def test_a_percentile_of_nothing_is_nothing_and_of_one_value_that_value() -> None:
    assert percentile([], 0.99) == 0
    assert percentile([7], 0.01) == percentile([7], 0.99) == 7


def test_medians_are_taken_of_each_figure_from_the_repeats_that_have_it() -> None:
    assert medians([sample("a", 0, x=1, y=4), sample("a", 1, x=9), sample("a", 2, x=2)]) == {"x": 2, "y": 4}


def test_ratios_are_paired_within_a_repeat() -> None:
    """The machine was half as fast in the last repeat: the ratio of medians would be 1.5."""
    ours = [sample("a", 0, x=200), sample("a", 1, x=210), sample("a", 2, x=100)]
    theirs = [sample("b", 2, x=50), sample("b", 0, x=100), sample("b", 1, x=140)]
    assert paired(ours, theirs, "x") == 2
    assert paired(ours, theirs, "z") is None
    assert paired(ours, [sample("b", 0, x=0)], "x") is None


@pytest.mark.parametrize("spread", [0.0, 0.05])
def test_the_steady_rate_leaves_out_filling_up_and_running_dry(spread: float) -> None:
    """Ten at once, a wave a second; the first took three seconds longer, the last five."""
    ends = [3 + number + (5 if number == 5 else 0) for number in range(6)]
    finished = [end - spread * slot for end in ends for slot in range(10)]
    assert waves(finished, 10) == pytest.approx(10)


def test_the_steady_rate_of_jobs_that_end_evenly() -> None:
    assert waves([number / 20 for number in range(100)], 10) == pytest.approx(20)


def test_too_few_jobs_have_no_steady_rate() -> None:
    with pytest.raises(ValueError, match="39 jobs are no four waves of 10"):
        waves(range(39), 10)


def test_every_other_repeat_is_in_reverse_order() -> None:
    assert [list(turns("abc", repeat)) for repeat in range(3)] == [list("abc"), list("cba"), list("abc")]


def test_a_table_has_medians_and_paired_ratios() -> None:
    samples = [
        *(sample("plantain", repeat, **{"req/s": rate}) for repeat, rate in enumerate([100, 300, 200])),
        *(sample("empty", repeat, **{"req/s": rate}) for repeat, rate in enumerate([400, 600, 2000])),
    ]
    title, head, ours, empty = report.tables(samples, "plantain").splitlines()
    assert title == "submit: 8 connections (median of 3)"
    assert head.split() == ["req/s", "ratio", "req/s", "ratio", "p99", "ms"]
    assert ours.split() == ["plantain", "200"]
    assert empty.split() == ["empty", "600", "0.25", "-"]
    assert len(head) == len(empty)


def test_a_part_with_one_subject_has_no_ratios() -> None:
    assert "ratio" not in report.tables([sample("plantain", 0, **{"req/s": 1})], "plantain")


@pytest.mark.parametrize("part", ["submit", "poll", *bench.OF_OURS])
def test_every_part_can_be_told_of_two_subjects(part: str) -> None:
    """As ``growth`` does it with most of them: a report that fails takes an hour's figures along."""
    found = [
        replace(sample(name, 0, **{"req/s": 1}), part=f"growth, {part}") for name in ("plantain", "grown")
    ]
    assert "grown" in report.tables(found, "plantain")


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), (0.104, "0.10"), (12.34, "12.3"), (12345.6, "12,346"), (0, "0.00")]
)
def test_numbers_have_as_many_digits_as_say_something(value: float | None, text: str) -> None:
    assert report.number(value) == text


def test_the_meter_counts_what_this_process_uses() -> None:
    meter = Meter({"me": os.getpid()})
    meter.begin()
    until = time.process_time() + 0.3
    while time.process_time() < until:
        pass
    assert 0.25 < meter.spent()["me"] < 1.0
    assert rss_mib(os.getpid()) > 10


def answers(*pieces: bytes) -> list[Answer]:
    seen: list[Answer] = []
    connection = Connection(lambda _, answer: seen.append(answer), lambda: None)
    for piece in pieces:
        connection.data_received(piece)
    return seen


def test_an_answer_is_read_however_it_is_cut() -> None:
    whole = b"HTTP/1.1 202 Accepted\r\nContent-Length: 5\r\nETag: abc\r\n\r\nhello"
    for at in range(1, len(whole)):
        (answer,) = answers(whole[:at], whole[at:])
        assert (answer.status, answer.body, answer.header(b"etag")) == (202, b"hello", b"abc")


def test_a_304_has_no_body_and_an_answer_of_unknown_length_is_refused() -> None:
    assert answers(b"HTTP/1.1 304 Not Modified\r\netag: x\r\n\r\n")[0].body == b""
    with pytest.raises(WireError, match="without Content-Length"):
        answers(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")


def test_a_request_has_its_length_only_where_it_has_a_body() -> None:
    target = Target("127.0.0.1", 80, {"X": "y"})
    assert target.request("GET", "/a") == b"GET /a HTTP/1.1\r\nHost: 127.0.0.1:80\r\nX: y\r\n\r\n"
    assert target.request("POST", "/a", b"{}").endswith(b"Content-Length: 2\r\n\r\n{}")
