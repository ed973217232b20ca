"""What a client of a text's stream has been told, and what waits for a slow one."""

from __future__ import annotations

import asyncio
import random

from api.deltas import DeltaFeed
from api.text_stream import Told
from shared.deltas import Delta, kept_text, unpack


def test_only_what_is_new_is_told() -> None:
    told = Told()
    assert told.tell(Delta(1, 0, "abc")) == Delta(1, 0, "abc")
    assert told.tell(Delta(1, 0, "abc")) is None
    assert told.tell(Delta(1, 1, "bcde")) == Delta(1, 3, "de")


def test_another_attempt_begins_anew_and_ends_the_one_before() -> None:
    told = Told()
    told.tell(Delta(1, 0, "abc"))
    assert told.tell(Delta(2, 0, "x")) == Delta(2, 0, "x")
    assert told.tell(Delta(1, 3, "def")) is None
    assert not told.lacks_before(Delta(1, 9, "z"))
    assert told.lacks_before(Delta(3, 1, "z"))


def test_the_rest_begins_at_the_first_gap() -> None:
    told = Told()
    told.tell(Delta(1, 0, "ab"))
    assert told.lacks_before(Delta(1, 4, "ef"))
    told.tell(Delta(1, 4, "ef"))
    assert told.rest(Delta(1, 0, "abcdefgh")) == Delta(1, 2, "cdefgh")
    assert told.rest(Delta(2, 0, "xyz")) == Delta(2, 0, "xyz")
    told.tell(Delta(2, 0, "xyz"))
    assert told.rest(Delta(2, 0, "xyz")) is None


def test_a_client_that_follows_the_rule_ends_with_the_whole_text() -> None:
    """Whatever is lost, repeated or late: cut at the offset, append, and the rest at the end."""
    random.seed(7)
    whole = "".join(chr(random.randint(32, 0x2FFF)) for _ in range(300))
    for _ in range(300):
        told, text = Told(), ""
        for _ in range(random.randint(0, 12)):
            start = random.randint(0, 299)
            new = told.tell(Delta(1, start, whole[start : start + random.randint(1, 60)]))
            if new:
                text = text[: new.offset] + new.text
        rest = told.rest(Delta(1, 0, whole))
        if rest:
            text = text[: rest.offset] + rest.text
        assert text == whole


def test_a_slow_reader_holds_little_and_knows_that_it_missed_something() -> None:
    bell = asyncio.Event()
    feed = DeltaFeed(bell)
    for number in range(1000):
        feed.push(Delta(1, number * 1000, "x" * 1000))
    assert feed.missed
    assert bell.is_set()
    assert sum(len(delta.text) for delta in feed.take()) <= 64 * 1024
    assert feed.take() == []


def test_pieces_come_back_as_they_were_and_a_cut_character_is_left_out() -> None:
    delta = Delta(3, 5, 'ü"\n🍌')
    assert unpack(delta.pack()) == delta
    assert kept_text("ab🍌".encode()[:-1]) == "ab"
