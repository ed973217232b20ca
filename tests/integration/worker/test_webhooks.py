"""Webhooks from the event to the receiver: real events, a real server on loopback, the standard's own library."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text
from uuid_utils.compat import uuid7

from api import render
from shared.config import Settings
from shared.db import Database
from shared.events.types import EventType
from shared.jobs import queries as jobs
from shared.jobs.outlook import SETTLED
from shared.jobs.status import State
from shared.wakeups import Wakeups
from shared.webhooks import sending
from shared.webhooks.schemas import WebhookCreate, WebhookUpdate
from shared.webhooks.service import WebhookService
from tests import factories
from tests.conftest import SettingsFactory
from tests.integration.worker.conftest import Table
from tests.patience import PATIENCE, until
from tests.receiver import Answer, Received, Receiver, receiving
from worker.maintenance import Maintenance
from worker.webhooks.dispatcher import Dispatcher
from worker.webhooks.feed import Feed
from worker.webhooks.sender import DISABLE_AFTER_SECONDS

OK: Answer = (200, {}, b"")


@pytest.fixture
def settings(make_settings: SettingsFactory) -> Settings:
    return make_settings(webhook_timeout=2)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


class Webhooks:
    """What a project does about its webhooks, and what it waits for."""

    def __init__(self, database: Database, settings: Settings, table: Table, receiver: Receiver) -> None:
        self.service = WebhookService(database, settings)
        self.table = table
        self.receiver = receiver
        self._database = database

    async def at(self, path: str, *events: EventType, **fields: Any) -> tuple[UUID, str]:
        """An endpoint's id and secret."""
        shape: dict[str, Any] = {"events": list(events)} if events else {}
        wanted = WebhookCreate(url=self.receiver.url + path, **shape, **fields)
        row, secret = await self.service.create(self.table.project_id, wanted)
        return row.id, secret

    async def job(self, state: State = State.SUCCEEDED, **columns: Any) -> UUID:
        result = {"text": "Yellow"} if state is State.SUCCEEDED else None
        row = await factories.job(
            self._database, self.table.project_id, state=state, result=result, **columns
        )
        return UUID(str(row.id))

    async def states(self) -> dict[str, int]:
        rows = await self.table.ask("SELECT state, count(*) AS n FROM webhook_deliveries GROUP BY state")
        return {row.state: row.n for row in rows}

    async def until_received(self, path: str, count: int, seconds: float = PATIENCE) -> list[Received]:
        await until(lambda: len(self.receiver.at(path)) >= count, seconds)
        return self.receiver.at(path)

    async def until_states(self, **wanted: int) -> None:
        async with asyncio.timeout(PATIENCE):
            while await self.states() != wanted:
                await asyncio.sleep(0.02)

    async def only(self) -> Any:
        (row,) = await self.table.ask(
            "SELECT *, extract(epoch FROM due_at - now()) AS due FROM webhook_deliveries"
        )
        return row


@pytest.fixture
def hooks(database: Database, settings: Settings, table: Table, receiver: Receiver) -> Webhooks:
    return Webhooks(database, settings, table, receiver)


Dispatchers = Callable[[], Dispatcher]


@pytest.fixture
async def dispatch(database: Database, settings: Settings, wakeups: Wakeups) -> AsyncIterator[Dispatchers]:
    """Starts dispatchers, as a beat each."""
    running: list[Dispatcher] = []

    def start() -> Dispatcher:
        running.append(Dispatcher(database, settings, wakeups))
        running[-1].start()
        return running[-1]

    yield start
    await asyncio.gather(*(each.close() for each in running))


async def test_a_jobs_events_reach_those_who_want_them_signed(
    hooks: Webhooks, dispatch: Dispatchers, table: Table, receiver: Receiver, database: Database
) -> None:
    _, secret = await hooks.at("/endings")
    await hooks.at("/all", EventType.JOB_QUEUED, EventType.JOB_RUNNING, EventType.JOB_SUCCEEDED)
    _, job_secret = await hooks.service.rotate_job_secret(table.project_id, 0)
    stranger = await factories.project(database, "stranger")
    await factories.job(database, stranger, state=State.FAILED)
    own: dict[str, Any] = {
        "webhook_url": f"{receiver.url}/own?token=1",
        "webhook_events": ["job.running", "job.succeeded"],
    }
    job = await hooks.job(**own, tags=["a"])
    dispatch()
    await hooks.until_states(delivered=6)

    (ending,) = receiver.at("/endings")
    message = ending.verified(secret)
    assert message["type"] == "job.succeeded"
    async with database.transaction() as db:
        row = (await jobs.get(db, [job]))[job]
    shown = render.dumps(render.job_view(row, SETTLED, ""))
    assert render.dumps(message["data"]) == shown
    assert "webhook_url" not in message["data"]
    (event,) = await table.ask(
        "SELECT * FROM job_events WHERE type = 'job.succeeded' AND job_id = :id", id=job
    )
    assert render.dumps(message["timestamp"]) == render.dumps(event.created_at)
    assert ending.headers["content-type"] == "application/json"
    assert sorted(receiver.types("/all")) == ["job.queued", "job.running", "job.succeeded"]
    assert sorted(receiver.types("/own?token=1")) == ["job.running", "job.succeeded"]
    for request in receiver.at("/own?token=1"):
        request.verified(job_secret)
    attempts = await table.ask("SELECT status, answer, error, duration_ms FROM webhook_attempts")
    assert {(row.status, row.answer, row.error) for row in attempts} == {(200, "thank you", None)}
    assert all(row.duration_ms >= 0 for row in attempts)


async def test_while_two_secrets_are_valid_both_sign(
    hooks: Webhooks, dispatch: Dispatchers, table: Table
) -> None:
    endpoint, first = await hooks.at("/a")
    _, second = await hooks.service.rotate(table.project_id, endpoint, 60)
    dispatch()
    await hooks.job()
    (request,) = await hooks.until_received("/a", 1)
    assert request.headers["webhook-signature"].count("v1,") == 2
    request.verified(first)
    request.verified(second)

    _, third = await hooks.service.rotate(table.project_id, endpoint, 0)
    await hooks.job()
    request = (await hooks.until_received("/a", 2))[1]
    assert request.headers["webhook-signature"].count("v1,") == 1
    request.verified(third)


async def test_a_failure_is_tried_again_under_the_same_id(
    hooks: Webhooks, dispatch: Dispatchers, table: Table, receiver: Receiver
) -> None:
    long = b"\xff\0" + b"out of order" * 1000
    receiver.answers["/a"] = lambda _: (500, {}, long)
    endpoint, secret = await hooks.at("/a")
    await hooks.job()
    dispatch()
    await table.until("EXISTS (SELECT FROM webhook_deliveries WHERE failures = 1)")
    row = await hooks.only()
    assert (row.state, row.last_status, row.last_error) == ("pending", 500, "answered with 500")
    assert 4 < row.due <= 6
    assert (await hooks.service.get(table.project_id, endpoint)).failing_since is not None

    # A busy receiver says when to come back.
    receiver.answers["/a"] = lambda _: (503, {"Retry-After": "3600"}, b"")
    await table.run("UPDATE webhook_deliveries SET due_at = now()")
    await table.until("EXISTS (SELECT FROM webhook_deliveries WHERE failures = 2)")
    assert 3590 < (await hooks.only()).due <= 3600

    # Another process knows nothing of that pause; a redirect is followed nowhere, and counts as a failure.
    receiver.answers["/a"] = lambda _: (302, {"Location": f"{receiver.url}/elsewhere"}, b"")
    dispatch()
    await table.run("UPDATE webhook_deliveries SET due_at = now(), failures = 9")
    await hooks.until_states(failed=1)
    assert "redirect" in (await hooks.only()).last_error
    assert receiver.at("/elsewhere") == []

    receiver.answers.clear()
    await hooks.service.redeliver(table.project_id, row.id)
    await hooks.until_states(delivered=1)
    assert set(receiver.times()) == {str(row.id)}
    assert len(receiver.bodies()[str(row.id)]) == 1
    for request in receiver.at("/a"):
        request.verified(secret)
    assert (await hooks.service.get(table.project_id, endpoint)).failing_since is None
    _, attempts = await hooks.service.delivery(table.project_id, row.id)
    assert [attempt.status for attempt in attempts] == [500, 503, 302, 200]
    assert attempts[0].answer.startswith("\ufffd\ufffdout of order")
    assert len(attempts[0].answer) == 1024


async def test_what_is_gone_or_has_failed_for_days_is_disabled_and_the_project_told(
    hooks: Webhooks, dispatch: Dispatchers, table: Table, receiver: Receiver, maintenance: Maintenance
) -> None:
    receiver.answers["/gone"] = lambda _: (410, {}, b"")
    receiver.answers["/bad"] = lambda _: (404, {}, b"")
    gone, _ = await hooks.at("/gone")
    bad, _ = await hooks.at("/bad")
    watcher, secret = await hooks.at("/watcher", EventType.WEBHOOK_DISABLED)
    await hooks.service.rotate_job_secret(table.project_id, 0)
    await table.run(
        "UPDATE webhook_endpoints SET failing_since = now() - make_interval(secs => :long) WHERE id = :id",
        id=bad,
        long=DISABLE_AFTER_SECONDS + 60,
    )
    await hooks.job(webhook_url=f"{receiver.url}/gone?of=job", webhook_events=["job.succeeded"])
    receiver.answers["/gone?of=job"] = receiver.answers["/gone"]
    dispatch()
    notices = [request.verified(secret) for request in await hooks.until_received("/watcher", 2)]
    assert {(notice["data"]["webhook_id"], notice["data"]["reason"]) for notice in notices} == {
        (str(gone), "gone"),
        (str(bad), "failing"),
    }
    # The job's own address is done with, and nothing else: another job names its own.
    (own,) = await table.ask("SELECT state, last_status FROM webhook_deliveries WHERE url IS NOT NULL")
    assert (own.state, own.last_status) == ("failed", 410)
    for endpoint, reason in ((gone, "gone"), (bad, "failing")):
        row = await hooks.service.get(table.project_id, endpoint)
        assert (row.disabled_reason, row.disabled_at is not None) == (reason, True)

    # What waits for it ends, what happens now is not for it, and what happens once it is enabled is.
    await maintenance.prune()
    assert "pending" not in await hooks.states()
    await hooks.job()
    watching = len(receiver.at("/watcher"))
    await table.until("(SELECT through_event FROM webhook_progress) = (SELECT max(id) FROM job_events)")
    await hooks.service.update(table.project_id, gone, WebhookUpdate(paused=False))
    receiver.answers.clear()
    job = await hooks.job()
    request = (await hooks.until_received("/gone", 2))[1]
    assert request.message["data"]["id"] == str(job)
    assert len(receiver.at("/watcher")) == watching
    assert (await hooks.service.get(table.project_id, watcher)).disabled_at is None


async def test_a_slow_endpoint_holds_up_nobody_and_takes_its_own_room_only(
    hooks: Webhooks, dispatch: Dispatchers, receiver: Receiver
) -> None:
    most, now = 0, 0

    def slow(_: Received) -> Answer:
        nonlocal most, now
        now += 1
        most = max(most, now)
        time.sleep(1)
        now -= 1
        return OK

    receiver.answers["/slow"] = slow
    await hooks.at("/slow")
    for _ in range(30):
        await hooks.job()
    dispatch()
    await until(lambda: bool(receiver.at("/slow")))
    await hooks.at("/quick")
    await hooks.job()
    await hooks.until_received("/quick", 1)
    assert len(receiver.at("/slow")) < 31
    await until(lambda: len(receiver.at("/slow")) >= 20)
    assert most == 8


async def test_however_many_hang_one_that_answers_is_served(
    hooks: Webhooks, dispatch: Dispatchers, receiver: Receiver, table: Table
) -> None:
    over = threading.Event()

    def hang(_: Received) -> Answer:
        over.wait(60)
        return OK

    receiver.answers["/hang"] = hang
    quick, _ = await hooks.at("/quick")
    dispatch()
    await hooks.service.ping(table.project_id, quick)
    await hooks.until_received("/quick", 1)
    # More than there is room for in all, each with an older queue than the one that answers.
    await table.run(
        """
        WITH e AS (
            INSERT INTO webhook_endpoints (id, project_id, url, events, since_event)
            SELECT gen_random_uuid(), :project, :url, '{job.failed}', 0 FROM generate_series(1, 160) RETURNING id
        )
        INSERT INTO webhook_deliveries (id, project_id, endpoint_id, event_id, type, body, due_at)
        SELECT gen_random_uuid(), :project, e.id, n, 'job.failed', '{}', now() - interval '1 hour'
        FROM generate_series(1, 20) n, e
        """,
        project=table.project_id,
        url=f"{receiver.url}/hang",
    )
    try:
        await until(lambda: len(receiver.at("/hang")) >= 64)
        for count in (2, 3, 4):
            await hooks.service.ping(table.project_id, quick)
            await hooks.until_received("/quick", count, seconds=10)
        assert (
            await table.ask("SELECT 1 FROM webhook_deliveries WHERE state = 'pending' AND attempt = 0") != []
        )
    finally:
        over.set()


async def test_what_arrived_after_its_endpoint_was_given_up_counts_as_delivered(
    hooks: Webhooks, database: Database, table: Table
) -> None:
    endpoint, _ = await hooks.at("/a")
    delivery = (await hooks.service.ping(table.project_id, endpoint)).id
    row = {"id": delivery, "number": 1, "ok": True, "counted": False, "duration_ms": 1.0, "status": 204}
    await table.run("UPDATE webhook_deliveries SET state = 'failed', finished_at = now(), attempt = 1")
    async with database.transaction() as db:
        await sending.record(db, [{**row, "ok": False, "number": 1, "status": 500, "delay": 5.0}])
    assert await hooks.states() == {"failed": 1}
    async with database.transaction() as db:
        await sending.record(db, [row])
    assert ((await hooks.only()).state, (await hooks.only()).last_status) == ("delivered", 204)


async def test_an_answer_that_nobody_can_read_is_no_reason_to_send_for_ever(
    hooks: Webhooks, dispatch: Dispatchers, receiver: Receiver
) -> None:
    receiver.answers["/a"] = lambda _: (
        200,
        {"Retry-After": "Mon, 01 Jan 2024 00:00:00 +99999999999999999999"},
        b"",
    )
    await hooks.at("/a")
    await hooks.job()
    dispatch()
    await hooks.until_states(delivered=1)


async def test_nobody_is_sent_to_a_private_network(
    database: Database,
    hooks: Webhooks,
    table: Table,
    receiver: Receiver,
    make_settings: SettingsFactory,
    wakeups: Wakeups,
) -> None:
    await hooks.at("/a")  # as if its name had led elsewhere then
    await hooks.job()
    dispatcher = Dispatcher(database, make_settings(outbound_private_networks="10.9.0.0/16"), wakeups)
    dispatcher.start()
    try:
        await table.until("EXISTS (SELECT FROM webhook_deliveries WHERE failures = 1)")
    finally:
        await dispatcher.close()
    row = await hooks.only()
    assert (row.last_status, row.last_error) == (None, "the URL's address is not on the public internet")
    assert receiver.received == []


async def test_two_dispatchers_send_each_message_once(
    hooks: Webhooks, dispatch: Dispatchers, receiver: Receiver, table: Table
) -> None:
    await hooks.at("/a")
    await hooks.at("/b")
    dispatch()
    dispatch()
    for _ in range(20):
        await asyncio.gather(*(hooks.job() for _ in range(5)))
    await hooks.until_states(delivered=200)
    assert set(receiver.times().values()) == {1}
    assert len(receiver.times()) == 200
    (made,) = await table.ask(
        "SELECT count(*) AS n, count(DISTINCT (endpoint_id, event_id)) AS m FROM webhook_deliveries"
    )
    assert made.n == made.m == 200


async def test_what_a_killed_sender_had_taken_is_sent_by_another(
    hooks: Webhooks, dispatch: Dispatchers, database: Database, table: Table, receiver: Receiver
) -> None:
    endpoint, _ = await hooks.at("/a")
    delivery = (await hooks.service.ping(table.project_id, endpoint)).id
    async with database.transaction() as db:
        (taken,) = await sending.claim(db, limit=10, unproven=10, at_first=5, rooms=[], lease=1)
        assert await sending.claim(db, limit=10, unproven=10, at_first=5, rooms=[], lease=1) == []
    dispatch()
    await hooks.until_states(delivered=1)
    (request,) = receiver.at("/a")
    assert request.id == str(delivery) == str(taken.id)
    _, attempts = await hooks.service.delivery(table.project_id, delivery)
    assert [(attempt.number, attempt.status, attempt.duration_ms is None) for attempt in attempts] == [
        (1, None, True),
        (2, 200, False),
    ]


async def test_a_sender_that_is_stopped_gives_back_what_it_cannot_end(
    hooks: Webhooks,
    dispatch: Dispatchers,
    receiver: Receiver,
    settings: Settings,
    database: Database,
    wakeups: Wakeups,
) -> None:
    hanging = True

    def hang(_: Received) -> Answer:
        while hanging:
            time.sleep(0.05)
        return OK

    receiver.answers["/a"] = hang
    await hooks.at("/a")
    await hooks.job()
    slow = settings.model_copy(update={"webhook_timeout": 30})
    first = Dispatcher(database, slow, wakeups)
    first.start()
    await hooks.until_received("/a", 1)
    started = time.monotonic()
    await first.close()
    assert time.monotonic() - started < 15
    hanging = False
    dispatch()
    await hooks.until_states(delivered=1)
    assert list(receiver.times().values()) == [2]


async def test_a_paused_endpoint_misses_nothing(
    hooks: Webhooks, dispatch: Dispatchers, table: Table, receiver: Receiver
) -> None:
    endpoint, _ = await hooks.at("/a", paused=True)
    dispatch()
    for _ in range(3):
        await hooks.job()
    await hooks.until_states(pending=3)
    await asyncio.sleep(0.7)
    assert receiver.received == []
    await hooks.service.update(table.project_id, endpoint, WebhookUpdate(paused=False))
    await hooks.until_states(delivered=3)


async def test_an_event_that_becomes_visible_late_is_not_missed(
    hooks: Webhooks, dispatch: Dispatchers, database: Database, table: Table, receiver: Receiver
) -> None:
    await hooks.at("/a", EventType.JOB_QUEUED)
    dispatch()
    async with database.transaction() as db:
        row = {**_NEW, "id": uuid7(), "project_id": table.project_id}
        await jobs.submit(db, [row])  # its event has the smaller number
        later = await hooks.job(State.QUEUED)
        await asyncio.sleep(0.7)
        assert receiver.received == []
    first, second = await hooks.until_received("/a", 2)
    assert {first.message["data"]["id"], second.message["data"]["id"]} == {str(row["id"]), str(later)}


_NEW = {
    "kind": "text.generate",
    "model": "gemini-flash",
    "priority": "standard",
    "queue": "text.standard",
    "input": factories.TEXT_JOB["input"],
    "warnings": [],
    "max_attempts": 5,
    "timeout_seconds": 300.0,
    "on_unknown": "retry",
    "scheduled_at": None,
    "expires_at": None,
}


async def test_a_job_is_pruned_only_when_its_webhooks_are_made_and_they_outlive_it(
    hooks: Webhooks, dispatch: Dispatchers, table: Table, receiver: Receiver, maintenance: Maintenance
) -> None:
    await hooks.at("/a")
    job = await hooks.job(keep_seconds=60)
    await table.run("UPDATE jobs SET finished_at = now() - interval '2 minutes'")
    await maintenance.prune()
    assert await table.ask("SELECT id FROM jobs") != []
    dispatch()
    (request,) = await hooks.until_received("/a", 1)
    assert request.message["data"]["id"] == str(job)
    await maintenance.prune()
    assert await table.ask("SELECT id FROM jobs") == []
    await hooks.until_states(delivered=1)

    await table.run("UPDATE webhook_deliveries SET created_at = now() - interval '31 days'")
    await maintenance.prune()
    assert await hooks.states() == {}
    assert await table.ask("SELECT number FROM webhook_attempts") == []


async def test_a_deleted_endpoints_deliveries_go_in_small_batches(
    hooks: Webhooks, table: Table, maintenance: Maintenance, dispatch: Dispatchers
) -> None:
    endpoint, _ = await hooks.at("/a")
    await hooks.at("/b")
    await table.run(
        """
        INSERT INTO webhook_deliveries (id, project_id, endpoint_id, event_id, type, body)
        SELECT gen_random_uuid(), :project, :endpoint, n, 'job.failed', '{}' FROM generate_series(1, 450) n
        """,
        project=table.project_id,
        endpoint=endpoint,
    )
    await hooks.service.delete(table.project_id, endpoint)
    dispatch()
    await hooks.job()
    await hooks.until_received("/b", 1)
    assert hooks.receiver.at("/a") == []
    for _ in range(10):
        await maintenance.prune()
    rows = await table.ask("SELECT id FROM webhook_endpoints WHERE id = :id", id=endpoint)
    assert (rows, sum((await hooks.states()).values())) == ([], 1)


async def test_a_database_that_was_set_back_is_noticed(
    hooks: Webhooks, table: Table, dispatch: Dispatchers, caplog: pytest.LogCaptureFixture
) -> None:
    await hooks.at("/a")
    await table.run("UPDATE webhook_progress SET through_event = 1000000")
    dispatch()
    await table.until("(SELECT through_event < 1000 FROM webhook_progress)")
    await hooks.job()
    await hooks.until_received("/a", 1)
    assert "set back" in caplog.text


async def test_a_database_that_was_set_back_loses_none_of_its_events(
    hooks: Webhooks, table: Table, database: Database, settings: Settings
) -> None:
    """As a standby may be that took over: its last moments are missing, of the events and of the progress."""
    await hooks.at("/a")
    feed = Feed(database, settings)
    await hooks.job()
    await feed.look()
    (before,) = await table.ask(
        "SELECT through_event AS n, (SELECT last_value FROM job_events_id_seq) AS last FROM webhook_progress"
    )
    for _ in range(20):
        await hooks.job()
    await feed.look()
    # The first two jobs of those are there, and nothing was made of the second one yet.
    late = await table.ask("SELECT job_id FROM job_events WHERE id > :n ORDER BY id", n=before.last)
    kept = list(dict.fromkeys(row.job_id for row in late))[:2]
    await table.run("DELETE FROM jobs WHERE id <> ALL(CAST(:kept AS uuid[]))", kept=kept)
    await table.run("DELETE FROM webhook_deliveries")
    await table.run("UPDATE webhook_progress SET through_event = :n", n=before.n)
    await table.run("SELECT setval('job_events_id_seq', (SELECT max(id) FROM job_events))")
    for _ in range(2):
        await feed.look()
    rows = await table.ask("SELECT job_id FROM webhook_deliveries")
    assert {row.job_id for row in rows} == set(kept)


async def test_without_webhooks_nothing_is_looked_at(
    dispatch: Dispatchers, hooks: Webhooks, table: Table
) -> None:
    dispatcher = dispatch()
    await hooks.job()
    await asyncio.sleep(0.3)
    assert (await table.ask("SELECT through_event FROM webhook_progress"))[0].through_event == 0
    assert not dispatcher._anybody
    # Whoever comes now hears of what happens from now on.
    await hooks.at("/a")
    job = await hooks.job()
    (request,) = await hooks.until_received("/a", 1)
    assert request.message["data"]["id"] == str(job)
    assert await hooks.states() in ({"delivered": 1}, {"pending": 1})


@pytest.mark.parametrize("count", [10_000])
async def test_a_long_queue_of_one_does_not_slow_the_claim_of_others(
    hooks: Webhooks, table: Table, database: Database, count: int
) -> None:
    dead, _ = await hooks.at("/dead", paused=True)
    late, _ = await hooks.at("/late")
    quick, _ = await hooks.at("/quick")
    await table.run(
        """
        INSERT INTO webhook_deliveries (id, project_id, endpoint_id, event_id, type, body)
        SELECT gen_random_uuid(), :project, e.id, n, 'job.failed', '{}'
        FROM generate_series(1, :count) n, unnest(CAST(:ids AS uuid[])) e(id)
        """,
        project=table.project_id,
        count=count,
        ids=[dead, late],
    )
    await table.run("ANALYZE webhook_deliveries")
    await hooks.service.ping(table.project_id, quick)
    rooms = [{"endpoint_id": late, "lane": "", "room": 2, "busy": 0, "well": True}]
    plan = await _explained(database, rooms)
    async with database.transaction() as db:
        rows = await sending.claim(db, limit=4, unproven=4, at_first=3, rooms=rooms, lease=10)
    assert sorted(str(row.endpoint_id) for row in rows) == sorted([str(late), str(late), str(quick)])
    assert "Seq Scan on webhook_deliveries" not in plan
    pages = re.search(r"^  Buffers: shared hit=(\d+)", plan, flags=re.MULTILINE)  # of the whole statement
    assert pages, plan
    assert int(pages[1]) < 400, plan


async def _explained(database: Database, rooms: list[dict[str, Any]]) -> str:
    """What a claim does, with all that it reads; and takes it back."""
    values = {"limit": 4, "unproven": 4, "at_first": 3, "rooms": json.dumps(rooms, default=str), "lease": 10}
    async with database.engine.connect() as db:
        found = await db.execute(
            text(f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF) {sending._CLAIM.text}"), values
        )
        plan = "\n".join(row[0] for row in found)
        await db.rollback()
    return plan
