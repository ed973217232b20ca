"""Hostile requests over raw sockets: none is a fault of ours, none goes unanswered, and none harms the next one."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, note
from hypothesis import seed as seeded
from hypothesis import settings as hypothesis_settings
from hypothesis.strategies import SearchStrategy

from tests import factories
from tests.contract.api import hostile, pieces
from tests.contract.api.conftest import Api
from tests.contract.api.raw import Answer, Raw, send

#: How many of each sort are sent by the usual run, and by scripts/test --contract.
FEW, MANY = 50, 2000

_ALIVE = Raw("GET", b"/api/health/live")


class Judge:
    """Sends requests, and looks at each answer and at what the next one gets."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self.seen: Counter[int | None] = Counter()

    def __call__(self, request: Raw) -> None:
        note(f"{request!r}")
        answer = send(self._api.server.port, request)
        self.seen[answer.status if answer else None] += 1
        if answer is not None:
            self._check(request, answer)
        assert request.whole <= (answer is not None), "the connection was ended without an answer"
        assert self._api.server.process.poll() is None, "the API ended"
        alive = send(self._api.server.port, _ALIVE)
        assert alive is not None and (alive.status, alive.body) == (200, b'{"status":"alive"}')

    def _check(self, request: Raw, answer: Answer) -> None:
        assert answer.status < 500, answer
        if request.ambiguous:
            assert b'{"status":"alive"}' not in answer.rest, "a request hidden in a body was answered"
        names = [name for name, _ in answer.headers]
        assert len(names) == len(set(names)), answer.headers
        if answer.status in {400, 431} and answer.header("connection") == "close":
            pass  # no request came about, so it has no id
        else:
            assert answer.header("x-request-id"), answer
        if answer.status < 400 or request.method == "HEAD":
            return
        assert answer.header("content-type") == "application/problem+json", answer
        problem = answer.json()
        assert problem["status"] == answer.status
        assert {"type", "title", "detail", "instance", "code", "request_id"} <= problem.keys()
        assert len(answer.body) < 50_000


Fuzz = Callable[[SearchStrategy[Raw], int], Counter[int | None]]


@pytest.fixture
def fuzz(api: Api, seed: int) -> Fuzz:
    """Sends so many of what is drawn; answers how often each status came."""

    def run(requests: SearchStrategy[Raw], count: int) -> Counter[int | None]:
        judge = Judge(api)
        profile = hypothesis_settings(
            max_examples=count,
            deadline=None,
            database=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        seeded(seed)(profile(given(requests)(judge.__call__)))()
        print(f"{judge.seen.total():,} requests, answers by status: {dict(judge.seen.most_common())}")
        log = api.server.log.read_text(encoding="utf-8")
        assert "Traceback" not in log, log[log.index("Traceback") - 500 :][:4000]
        return judge.seen

    return run


def _get(api: Api, target: bytes) -> bytes:
    answer = send(api.server.port, Raw("GET", target, [(b"Authorization", b"Bearer " + api.key.encode())]))
    assert answer is not None
    assert answer.status == 200
    return answer.body


def _names(api: Api) -> list[str]:
    """Fields of every body that there is, so that each meets what it does not expect."""
    schemas = json.loads(_get(api, b"/openapi.json"))["components"]["schemas"].values()
    return sorted({name for schema in schemas for name in schema.get("properties", {})})


def headers(api: Api) -> SearchStrategy[Raw]:
    artifact, done, other = api.artifacts[1].encode(), api.final.encode(), api.jobs[0].encode()
    targets = [
        ("GET", b"/api/v1/jobs/" + done),
        ("HEAD", b"/api/v1/jobs/" + done),
        ("GET", b"/api/v1/jobs/" + done + b"/result"),
        ("GET", b"/api/v1/jobs/" + done + b"/events"),
        ("GET", b"/api/v1/events"),
        ("GET", b"/api/v1/artifacts/" + artifact),
        ("GET", b"/api/v1/artifacts/" + artifact),
        ("GET", b"/api/v1/jobs?limit=1"),
        ("POST", b"/api/v1/jobs"),
        ("POST", b"/api/v1/jobs/" + other + b"/cancel"),
        ("GET", b"/docs"),
        ("OPTIONS", b"/api/v1/jobs"),
    ]
    return hostile.with_headers(api.key, targets)


def bodies(api: Api) -> SearchStrategy[Raw]:
    targets: dict[bytes, dict[str, Any]] = {
        b"/api/v1/jobs": factories.TEXT_JOB,
        b"/api/v1/jobs?": factories.IMAGE_JOB,
        b"/api/v1/jobs/cancel": {"filter": {"tag": ["no such"]}, "dry_run": True},
        b"/api/v1/jobs/" + api.final.encode() + b"/replay": {"input": {"seed": 7}},
        b"/api/v1/batches": {"defaults": {"kind": "text.generate"}, "jobs": [{"input": {"prompt": "x"}}]},
        b"/api/v1/webhooks": {"url": "https://example.com/plantain", "events": ["job.failed"]},
    }
    return hostile.bodies(api.key, targets, _names(api))


def addresses(api: Api) -> SearchStrategy[Raw]:
    cursor = json.loads(_get(api, b"/api/v1/jobs?limit=1"))["next_cursor"].encode()
    paths = [
        b"/api/v1/jobs",
        b"/api/v1/jobs/summary",
        b"/api/v1/events",
        b"/api/v1/artifacts/" + api.artifacts[1].encode(),
    ]
    paths += [
        b"/api/v1/models",
        b"/api/v1/kinds",
        b"/api/v1/jobs/" + api.final.encode(),
        b"/docs",
        b"/openapi.json",
    ]
    return hostile.addresses(api.key, cursor, paths)


def framings(api: Api) -> SearchStrategy[Raw]:
    return hostile.framings(api.key)


def forms(api: Api) -> SearchStrategy[Raw]:
    return pieces.forms(api.key, b"/api/v1/uploads")


def lines(api: Api) -> SearchStrategy[Raw] | None:
    if "/api/v1/batches" not in json.loads(_get(api, b"/openapi.json"))["paths"]:
        return None  # not yet
    return pieces.lines(api.key, b"/api/v1/batches", _names(api))


SORTS: dict[str, Callable[[Api], SearchStrategy[Raw] | None]] = {
    "headers": headers,
    "bodies": bodies,
    "addresses": addresses,
    "framings": framings,
    "forms": forms,
    "lines": lines,
}


def test_hostile_requests_are_answered(api: Api, fuzz: Fuzz) -> None:
    for sort in SORTS.values():  # one after the other: starting an API takes longer
        requests = sort(api)
        if requests is not None:
            assert len(fuzz(requests, FEW)) > 2, "nothing came of what was drawn"


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("sort", SORTS)
def test_many_hostile_requests_are_answered(api: Api, fuzz: Fuzz, sort: str) -> None:
    requests = SORTS[sort](api)
    if requests is not None:
        fuzz(requests, MANY)
