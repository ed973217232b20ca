"""A new job's view is made from a text that is kept; it must be the one that is built value by value."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from api.first_views import FirstViews
from api.idempotency import response_of
from api.render import dumps, job_view
from api.routers.jobs import accepted
from shared.jobs.outlook import Outlook, Start
from shared.jobs.queries import NewJob
from shared.jobs.status import WaitingReason
from shared.names import name_of

_URL = "https://100%25.example/%b/%"
_NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
_times = st.datetimes(timezones=st.just(UTC), min_value=datetime(2000, 1, 1), max_value=datetime(2100, 1, 1))  # noqa: DTZ001
#: What could be taken for a place of its own in the text, or end one.
_words = st.text(max_size=20) | st.sampled_from(
    ['"', "%b", "%%", "\1", '"tags":[]', '"metadata":{}', "null", '"queue_position":null']
)


@st.composite
def rows(draw: st.DrawFn) -> NewJob:
    now = draw(_times)
    later = draw(st.none() | _times)
    return NewJob(
        id=draw(st.uuids()),
        project_id=UUID(int=1),
        kind=draw(st.sampled_from(["text.generate", "image.generate"])),
        model=draw(st.sampled_from(["gemini-flash", "nano-banana", "100%"])),
        priority=draw(st.sampled_from(["interactive", "standard", "batch"])),
        queue="text.standard",
        warnings=draw(
            st.just([]) | st.just([{"pointer": "/input/seed", "code": "ignored", "message": "50 %"}])
        ),
        max_attempts=draw(st.integers(1, 20)),
        timeout_seconds=draw(st.sampled_from([300.0, 0.5])),
        on_unknown=draw(st.sampled_from(["retry", "fail"])),
        created_at=now,
        scheduled_at=draw(st.just(now) | _times) if later is None else later,
        expires_at=draw(st.none() | _times),
        waiting_reason=None if later is None else "scheduled",
        waiting_until=later,
        tags=draw(st.lists(_words, max_size=3)),
        metadata=draw(st.dictionaries(_words, _words, max_size=3)),
        replay_of=draw(st.none() | st.uuids()),
        keep_seconds=draw(st.none() | st.floats(1, 1e9)),
        stream=draw(st.booleans()),
        request_id=draw(st.none() | _words),
    )


@st.composite
def outlooks(draw: st.DrawFn) -> Outlook:
    reason = draw(st.sampled_from([*WaitingReason]))
    start = draw(st.none() | st.builds(Start, _times, _times))
    return Outlook(
        reason, draw(st.none() | st.integers(1, 200_000)), start, None, draw(st.none() | st.floats(0, 100))
    )


@given(st.lists(st.tuples(rows(), outlooks()), min_size=1, max_size=5))
def test_it_is_the_one_that_is_built(made: list[tuple[NewJob, Outlook]]) -> None:
    views = FirstViews(_URL)
    for row, outlook in made:
        assert views.of(row, outlook, name_of(row.id)) == dumps(job_view(row, outlook, _URL))


@given(rows(), outlooks(), st.sampled_from([_URL, ""]))
def test_the_answer_is_the_one_that_would_be_kept(row: NewJob, outlook: Outlook, url: str) -> None:
    """Which is made of a dictionary of headers, and checked."""
    request = Request({"type": "http", "public_url": url, "app": SimpleNamespace(services=_services(url))})
    random.seed(7)  # a little of Retry-After is left to chance
    kept = response_of(accepted(request, row, outlook))
    random.seed(7)
    made = FirstViews(url).answer(row, outlook)
    assert (made.status_code, made.body) == (kept.status_code, kept.body)
    assert sorted(made.raw_headers) == sorted(kept.raw_headers)


@pytest.mark.parametrize(
    "changed",
    [
        {"kind": "image.generate"},
        {"model": "nano-banana"},
        {"priority": "batch"},
        {"max_attempts": 7},
        {"timeout_seconds": 7.0},
        {"on_unknown": "fail"},
        {"keep_seconds": 7.0},
        {"stream": True},
        {"reason": WaitingReason.NO_WORKERS},
        {"position": 7},
        {"start": Start(_NOW, _NOW + timedelta(seconds=7))},
        {"id": UUID(int=7)},
        {"created_at": _NOW + timedelta(seconds=7)},
        {"scheduled_at": _NOW - timedelta(seconds=7)},
        {"request_id": "seven"},
        {"tags": ["seven"]},
        {"metadata": {"n": "7"}},
        {"warnings": [{"pointer": "/input/seed", "code": "ignored", "message": "7"}]},
        {"expires_at": _NOW},
        {"waiting_until": _NOW, "waiting_reason": "scheduled"},
        {"replay_of": UUID(int=7)},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_a_text_that_is_kept_serves_no_job_of_another_shape(changed: dict[str, Any]) -> None:
    outlook = Outlook(WaitingReason.IN_QUEUE)
    of_outlook = {name: changed.pop(name) for name in ("reason", "position", "start") if name in changed}
    views, other = FirstViews(_URL), outlook._replace(**of_outlook)
    seen = []
    for row, its in ((_plain(), outlook), (_plain(**changed), other), (_plain(), outlook)):
        seen.append(views.of(row, its, name_of(row.id)))
        assert seen[-1] == dumps(job_view(row, its, _URL))
    assert seen[0] == seen[2] != seen[1]


def test_all_that_a_view_shows_is_looked_at() -> None:
    """A column that is new jobs' own, and shown, must be a place in the text or part of its shape."""
    constant = {
        "project_id", "queue", "batch_id", "batch_index", "state", "version", "attempt", "snoozes", "started_at", "finished_at",
        "cancel_requested_at", "error", "provider", "upstream_model", "model_version", "usage", "cost_usd", "elapsed",
    }  # fmt: skip
    looked_at = {
        "id", "kind", "model", "priority", "warnings", "max_attempts", "timeout_seconds", "on_unknown", "created_at", "scheduled_at",
        "expires_at", "waiting_reason", "waiting_until", "tags", "metadata", "replay_of", "keep_seconds", "stream", "request_id",
    }  # fmt: skip
    assert set(NewJob._fields) == constant | looked_at


def test_clients_cannot_make_it_keep_texts_for_ever() -> None:
    views = FirstViews("")
    for number in range(2000):
        row = _plain(keep_seconds=float(number + 1), created_at=_NOW + timedelta(seconds=number))
        assert b'"keep_for":%d.0' % (number + 1) in views.of(row, Outlook(), name_of(row.id))
    assert len(views._texts) <= 500


def _services(url: str) -> SimpleNamespace:
    return SimpleNamespace(first_views=FirstViews(url))


def _plain(**changed: Any) -> NewJob:
    row = NewJob(
        UUID(int=2), UUID(int=1), "text.generate", "gemini-flash", "standard", "text.standard", [], 5, 300.0, "retry",
        _NOW, _NOW, None, None, None,
    )  # fmt: skip
    return row._replace(**{"tags": [], "metadata": {}} | changed)
