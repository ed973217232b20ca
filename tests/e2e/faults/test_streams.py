"""API and beat are killed again and again under event streams and webhooks on their way.

Each stream sees every event once and in order; each webhook arrives at least once, always under the same id.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections import defaultdict
from collections.abc import Sequence

import httpx
import pytest

from tests.e2e.faults.conftest import NewStack
from tests.e2e.faults.harness import Stack
from tests.e2e.faults.hooks import Hooks, hooks

_KILLS = 5
_JOBS = 180
_PROJECT_STREAMS = 20
#: Each has eight messages under way at once, and more waiting.
_WEBHOOKS = 7
#: When it is killed, at least so many of them are.
_UNDER_WAY = 50
#: Job and version: what one event is about.
Seen = tuple[str, int]


class Followers:
    """Streams in a thread of their own, each coming back with its Last-Event-ID whenever it is cut."""

    def __init__(self, api_url: str, api_key: str) -> None:
        self._url = f"{api_url}/api/v1"
        self._headers = {"Authorization": f"Bearer {api_key}"}
        self._stopped = threading.Event()
        self.of_jobs: dict[str, list[Seen]] = {}
        self.of_project: list[list[Seen]] = []
        self.ids: defaultdict[str, list[int]] = defaultdict(list)
        self.reconnects = 0
        self.refused: list[str] = []

    def follow(self, jobs: Sequence[str]) -> None:
        self._thread = threading.Thread(target=lambda: asyncio.run(self._follow(jobs)), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(20)
        assert not self._thread.is_alive()

    async def _follow(self, jobs: Sequence[str]) -> None:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(
            base_url=self._url, headers=self._headers, timeout=20, limits=limits, trust_env=False
        ) as http:
            tasks = [
                asyncio.create_task(
                    self._one(http, f"/jobs/{job}/events", f"job {job}", self.of_jobs.setdefault(job, []))
                )
                for job in jobs
            ]
            for number in range(_PROJECT_STREAMS):
                self.of_project.append([])
                tasks.append(
                    asyncio.create_task(self._one(http, "/events", f"all {number}", self.of_project[-1]))
                )
            while not self._stopped.is_set():
                await asyncio.sleep(0.1)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _one(self, http: httpx.AsyncClient, path: str, name: str, seen: list[Seen]) -> None:
        ids = self.ids[name]
        while True:
            headers = {"Last-Event-ID": str(ids[-1] if ids else 0)}
            try:
                async with http.stream("GET", path, headers=headers) as answer:
                    if answer.status_code == 204:
                        return
                    if answer.status_code != 200:
                        self.refused.append(f"{answer.status_code} {path}")
                    async for line in answer.aiter_lines():
                        if line.startswith("data: "):
                            event = json.loads(line.removeprefix("data: "))
                            ids.append(event["id"])
                            seen.append((event["job_id"], event["version"]))
            except httpx.TransportError:
                pass
            self.reconnects += 1
            await asyncio.sleep(0.1)


@pytest.mark.slow
@pytest.mark.fault(28, "API and beat killed five times under 200 event streams, 50 webhooks")
def test_every_stream_sees_every_event_once_and_every_webhook_arrives(new_stack: NewStack) -> None:
    stack = new_stack(workers=2, WEBHOOK_TIMEOUT=10)
    with hooks(stack, _WEBHOOKS) as webhooks:
        _kill_again_and_again(stack, webhooks)


def _kill_again_and_again(stack: Stack, webhooks: Hooks) -> None:
    jobs = stack.clients.submit(_JOBS, seconds=0.5)
    followers = Followers(f"http://127.0.0.1:{stack.api_port}", stack.servers.key)
    followers.follow(jobs)
    try:
        for number in range(1, _KILLS + 1):
            stack.wait_until(lambda: webhooks.under_way >= _UNDER_WAY, 20, "many webhooks are under way")
            stack.kill("beat")
            stack.kill("api")
            stack.mark()
            stack.wait_until(lambda: stack.restarts["api"] == number, 20, "the API has died")  # noqa: B023
            stack.wait_until(stack.parts["api"].ready, 30, "the API is back")
            stack.clients.submit(10, seconds=0.3)
        stack.settle(60)
        events = stack.sql("SELECT job_id::text, version FROM job_events ORDER BY id")
        stack.wait_until(
            lambda: (
                all(len(seen) >= len(events) for seen in followers.of_project)
                and all(_ended(stack_events, seen) for stack_events, seen in _pairs(events, followers))
            ),
            20,
            "every stream has seen its last event",
        )
        # What a killed beat had begun is sent again once its lease has run out.
        stack.wait_until(lambda: _undelivered(stack) == 0, 60, "every webhook is delivered")
    finally:
        followers.stop()
    for seen in followers.of_project:
        assert seen == events
    for wanted, seen in _pairs(events, followers):
        assert seen == wanted
    assert followers.reconnects > _KILLS * _PROJECT_STREAMS / 2
    assert {entry.partition(" ")[0] for entry in followers.refused} <= {"503"}
    arrived = webhooks.arrived()
    assert arrived.keys() == {(path, job) for path in webhooks.secrets for job in stack.clients.told}
    assert {len(ids) for ids in arrived.values()} == {1}
    assert {len(bodies) for bodies in webhooks.receiver.bodies().values()} == {1}
    times = webhooks.receiver.times()
    again = sum(times.values()) - len(times)
    assert again > 0, "no kill met a webhook under way"
    stack.verify(
        calls=sum(stack.states().values()),
        remark=f"{len(events)} events, {followers.reconnects} reconnects, {len(times)} webhooks, {again} came again",
    )


def _undelivered(stack: Stack) -> int:
    """Deliveries that are not there yet, and those that are still to be made."""
    query = """
        SELECT (SELECT count(*) FROM webhook_deliveries WHERE state <> 'delivered')
             + (SELECT count(*) FROM job_events, webhook_progress WHERE id > through_event)
    """
    found: int = stack.sql(query)[0][0]
    return found


def _pairs(events: Sequence[tuple[str, int]], followers: Followers) -> list[tuple[list[Seen], list[Seen]]]:
    by_job: defaultdict[str, list[Seen]] = defaultdict(list)
    for job, version in events:
        by_job[job].append((job, version))
    return [(by_job[job], seen) for job, seen in followers.of_jobs.items()]


def _ended(wanted: list[Seen], seen: list[Seen]) -> bool:
    return len(seen) >= len(wanted)
