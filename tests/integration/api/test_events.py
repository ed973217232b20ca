"""GET /jobs/{id}/events and GET /events, of a server that is a process of its own: real streams over real sockets."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from sqlalchemy import text

from scripts.embedded import EmbeddedValkey
from shared.config import Settings
from shared.db import Database
from shared.events.schemas import EventView
from shared.jobs.status import State
from shared.wakeups import Wakeups
from tests import factories
from tests.conftest import scratch_database
from tests.integration.api.conftest import bearer, problem
from tests.integration.api.test_server import Server
from tests.patience import PATIENCE, until

MakeServer = Callable[..., Server]


@pytest.fixture(scope="module")
def module_database_url(server_url: str, template_database: str) -> Iterator[str]:
    with scratch_database(server_url, f"plantain_test_{uuid4().hex[:12]}", template_database) as url:
        yield url


@pytest.fixture
def database_url(module_database_url: str) -> str:
    """One for all tests here, as a server takes longer to start than most tests do; each has a project of its own."""
    return module_database_url


@pytest.fixture
async def project_id(database: Database) -> UUID:
    return await factories.project(database, f"project-{uuid4()}")


@pytest.fixture
async def key(database: Database, project_id: UUID) -> str:
    async with database.transaction() as db:
        name = (
            await db.execute(text("SELECT name FROM projects WHERE id = :id"), {"id": project_id})
        ).scalar_one()
    return await factories.key(database, project=name)


@pytest.fixture(scope="module")
def running() -> Iterator[list[Server]]:
    """The server of this module, where there is one; it must end before its database goes."""
    servers: list[Server] = []
    yield servers
    for server in servers:
        _end(server)


@pytest.fixture
def make_server(settings: Settings, tmp_path: Path) -> Iterator[MakeServer]:
    made: list[Server] = []

    def make(**more: str) -> Server:
        made.append(Server(settings, tmp_path / f"api{len(made)}.log", **more))
        return made[-1]

    yield make
    for server in made:
        _end(server)


def _end(server: Server) -> None:
    if server.process.poll() is None:
        server.process.kill()
        server.process.wait()


@pytest.fixture
def server(
    request: pytest.FixtureRequest,
    settings: Settings,
    module_database_url: str,
    running: list[Server],
    tmp_path: Path,
) -> Iterator[Server]:
    """The module's, or another one where a test has ended it."""
    del module_database_url  # outlives the server
    if not running or running[-1].process.poll() is not None:
        running.append(Server(settings, tmp_path / "api.log"))
    yield running[-1]
    if "valkey" in request.fixturenames:  # it would take a while until it has subscribed again
        _end(running[-1])


def client_of(server: Server, key: str) -> httpx.AsyncClient:
    base = f"http://127.0.0.1:{server.port}/api/v1"
    return httpx.AsyncClient(base_url=base, headers=bearer(key), timeout=20)


@pytest.fixture
async def http(server: Server, key: str) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(server, key) as client:
        yield client


class Stream:
    """What a client reads of a stream."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._lines = response.aiter_lines()

    async def event(self, seconds: float = PATIENCE) -> dict[str, Any]:
        """The next event, checked against its schema."""
        fields: dict[str, str] = {}
        async with asyncio.timeout(seconds):
            async for line in self._lines:
                if not line and "data" in fields:
                    break
                name, _, value = line.partition(": ")
                fields[name] = value
            else:
                raise StopAsyncIteration
        data: dict[str, Any] = json.loads(fields["data"])
        EventView.model_validate(data)
        assert (fields["id"], fields["event"]) == (str(data["id"]), data["type"])
        return data

    async def events(self, count: int) -> list[dict[str, Any]]:
        return [await self.event() for _ in range(count)]

    async def end(self, seconds: float = PATIENCE) -> list[str]:
        """The rest, once the server has ended it."""
        async with asyncio.timeout(seconds):
            return [line async for line in self._lines if line]


@asynccontextmanager
async def opened(
    http: httpx.AsyncClient, path: str, after: int | None = None, **headers: str
) -> AsyncIterator[Stream]:
    if after is not None:
        headers["Last-Event-ID"] = str(after)
    async with http.stream("GET", path, headers=headers) as response:
        assert response.status_code == 200, await response.aread()
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        yield Stream(response)


def types(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("job.") for event in events]


class TestOfAJob:
    async def test_a_stream_tells_all_and_ends_with_the_job(
        self, http: httpx.AsyncClient, database: Database, project_id: UUID, wakeups: Wakeups
    ) -> None:
        row = await factories.job(database, project_id)
        async with opened(http, f"/jobs/{row.id}/events") as stream:
            first = await stream.event()
            await factories.claim(database, row.id)
            wakeups.changed([(project_id, row.id)])
            second = await stream.event(1)
            await factories.finish(database, row.id, state=State.SUCCEEDED)
            wakeups.changed([(project_id, row.id)])
            third = await stream.event(1)
            assert await stream.end() == []
        assert types([first, second, third]) == ["queued", "running", "succeeded"]
        assert [event["version"] for event in (first, second, third)] == [1, 2, 3]
        assert third["job"]["state"] == "succeeded"
        assert third["job"]["result_url"] == f"/api/v1/jobs/{row.id}/result"
        assert (await http.get(third["job"]["status_url"].removeprefix("/api/v1"))).status_code == 200

    async def test_who_comes_back_gets_the_rest_and_then_nothing(
        self, http: httpx.AsyncClient, database: Database, project_id: UUID
    ) -> None:
        row = await factories.job(database, project_id, state=State.FAILED)
        async with opened(http, f"/jobs/{row.id}/events") as stream:
            events = await stream.events(3)
        async with opened(http, f"/jobs/{row.id}/events", after=events[0]["id"]) as stream:
            assert await stream.events(2) == events[1:]
            assert await stream.end() == []
        async with opened(http, f"/jobs/{row.id}/events?last_event_id={events[1]['id']}") as stream:
            assert await stream.event() == events[2]
        over = await http.get(f"/jobs/{row.id}/events", headers={"Last-Event-ID": str(events[2]["id"])})
        assert (over.status_code, over.content) == (204, b"")

    async def test_the_header_wins_over_the_query(
        self, http: httpx.AsyncClient, database: Database, project_id: UUID
    ) -> None:
        row = await factories.job(database, project_id, state=State.SUCCEEDED)
        async with opened(http, f"/jobs/{row.id}/events") as stream:
            events = await stream.events(3)
        path = f"/jobs/{row.id}/events?last_event_id={events[0]['id']}"
        async with opened(http, path, after=events[1]["id"]) as stream:
            assert await stream.event() == events[2]

    async def test_redis_being_away_costs_time_only(
        self, http: httpx.AsyncClient, database: Database, project_id: UUID, valkey: EmbeddedValkey
    ) -> None:
        row = await factories.job(database, project_id)
        valkey.kill()
        async with opened(http, f"/jobs/{row.id}/events") as stream, opened(http, "/events") as everything:
            await stream.event()
            await factories.claim(database, row.id)
            assert (await stream.event(4))["type"] == "job.running"
            assert (await everything.event(4))["type"] == "job.running"


class TestOfAProject:
    async def test_everything_that_happens_from_now_on(
        self, http: httpx.AsyncClient, database: Database, project_id: UUID
    ) -> None:
        await factories.job(database, project_id, state=State.SUCCEEDED)
        other = await factories.project(database, "others")
        async with opened(http, "/events") as stream:
            await factories.job(database, other, state=State.SUCCEEDED)
            job_id = (await http.post("/jobs", json=factories.TEXT_JOB)).json()["id"]
            queued = await stream.event(1)
            await http.post(f"/jobs/{job_id}/cancel")
            cancelled = await stream.event(1)
        assert (queued["job_id"], queued["type"]) == (job_id, "job.queued")
        assert (cancelled["job_id"], cancelled["type"]) == (job_id, "job.cancelled")

    async def test_replay_begins_after_the_id_and_goes_over_into_what_comes(
        self, http: httpx.AsyncClient, database: Database, project_id: UUID
    ) -> None:
        for _ in range(3):
            await factories.job(database, project_id, state=State.SUCCEEDED)
        async with opened(http, "/events", after=0) as stream:
            events = await stream.events(9)
        ids = [event["id"] for event in events]
        assert ids == sorted(set(ids))
        async with opened(http, "/events", after=ids[3]) as stream:
            assert await stream.events(5) == events[4:]
            await http.post("/jobs", json=factories.TEXT_JOB)
            assert (await stream.event(1))["id"] > ids[-1]

    async def test_who_lost_the_stream_before_the_first_event_can_come_back_too(
        self, http: httpx.AsyncClient, database: Database, project_id: UUID
    ) -> None:
        """An id without data: EventSource keeps it as its last one, and tells the page nothing."""
        await factories.job(database, project_id, state=State.SUCCEEDED)
        async with database.transaction() as db:
            last = (await db.execute(text("SELECT max(id) FROM job_events"))).scalar_one()
        async with http.stream("GET", "/events") as response:
            lines = response.aiter_lines()
            assert [await anext(lines) for _ in range(3)] == ["retry: 1000", f"id: {last}", ""]
        row = await factories.job(database, project_id)
        async with opened(http, "/events", after=last) as stream:
            assert (await stream.event(1))["job_id"] == str(row.id)

    async def test_more_than_a_page_is_replayed_whole(
        self, http: httpx.AsyncClient, database: Database, project_id: UUID
    ) -> None:
        row = await factories.job(database, project_id)
        await insert_events(database, row.id, 2, 1600)
        async with opened(http, "/events", after=0) as stream:
            versions = [(await stream.event())["version"] for _ in range(1600)]
        assert versions == list(range(1, 1601))

    async def test_an_event_committed_late_is_neither_lost_nor_told_out_of_order(
        self,
        http: httpx.AsyncClient,
        database: Database,
        project_id: UUID,
        database_url: str,
        wakeups: Wakeups,
    ) -> None:
        slow, quick = [await factories.job(database, project_id) for _ in range(2)]
        async with opened(http, "/events") as stream, opened(http, f"/jobs/{quick.id}/events") as of_job:
            await of_job.event()
            async with database.engine.connect() as held:
                await held.execute(text("UPDATE jobs SET version = 2 WHERE id = :id"), {"id": slow.id})
                await held.execute(
                    text(
                        "INSERT INTO job_events (project_id, job_id, version, type, data) "
                        "VALUES (:project, :job, 2, 'job.cancel_requested', '{}')"
                    ),
                    {"project": project_id, "job": slow.id},
                )
                # Drawn later, committed earlier: to tell it now would lose the other one for whoever comes back.
                await factories.claim(database, quick.id)
                wakeups.changed([(project_id, quick.id)])
                assert (await of_job.event(1))["type"] == "job.running", "a job's own stream waits for nobody"
                with pytest.raises(TimeoutError):
                    await asyncio.shield(waiting := asyncio.ensure_future(stream.event(1)))
                assert waiting.done()
                await held.commit()
        async with opened(http, "/events", after=0) as stream:
            events = await stream.events(4)
        assert [(event["job_id"], event["version"]) for event in events] == [
            (str(slow.id), 1),
            (str(quick.id), 1),
            (str(slow.id), 2),
            (str(quick.id), 2),
        ]

    async def test_while_an_old_transaction_goes_on_none_is_begun(
        self, http: httpx.AsyncClient, database: Database, project_id: UUID
    ) -> None:
        async with database.engine.connect() as held:
            await held.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
            await held.execute(text("SELECT pg_current_xact_id()"))
            answer = await http.get("/events")
        assert "An old transaction" in problem(answer, 503, "unavailable")["detail"]
        async with opened(http, "/events"):
            pass

    async def test_each_of_many_writers_events_once_and_in_order(
        self, http: httpx.AsyncClient, database: Database, project_id: UUID, wakeups: Wakeups
    ) -> None:
        """Writers that overlap at random, and streams that come back at random."""
        rows = [await factories.job(database, project_id) for _ in range(8)]
        total = 8 * 30

        async def write(job_id: UUID, seed: int) -> None:
            for version in range(2, 31):
                await insert_events(database, job_id, version, version, pause=(seed * version % 7) / 300)
                wakeups.changed([(project_id, job_id)])

        async def follow(every: int) -> list[tuple[int, str, int]]:
            seen: list[tuple[int, str, int]] = []
            while len(seen) < total:
                async with opened(http, "/events", after=seen[-1][0] if seen else 0) as stream:
                    for _ in range(min(every, total - len(seen))):
                        event = await stream.event(20)
                        seen.append((event["id"], event["job_id"], event["version"]))
            return seen

        async with asyncio.TaskGroup() as group:
            followers = [group.create_task(follow(every)) for every in (3, 17, 1000)]
            for seed, row in enumerate(rows):
                group.create_task(write(row.id, seed + 1))
        stories = [await follower for follower in followers]
        assert stories[0] == stories[1] == stories[2]
        ids = [number for number, _, _ in stories[0]]
        assert ids == sorted(set(ids))
        for row in rows:
            assert [version for _, job, version in stories[0] if job == str(row.id)] == list(range(1, 31))


class TestAnswers:
    @pytest.mark.parametrize("given", ["x", "-1", "1.5", "9" * 19, "1 ", "٣", "0x10"])
    async def test_what_is_no_id_is_refused(self, client: httpx.AsyncClient, given: str) -> None:
        for path in ("/api/v1/events", f"/api/v1/jobs/{uuid4()}/events"):
            answer = await client.get(path, params={"last_event_id": given})
            body = problem(answer, 400, "invalid_last_event_id")
            assert body["errors"][0]["pointer"] == "Last-Event-ID"

    async def test_an_id_that_no_event_has_had_is_refused(
        self, client: httpx.AsyncClient, database: Database, project_id: UUID
    ) -> None:
        row = await factories.job(database, project_id)
        for path in ("/api/v1/events", f"/api/v1/jobs/{row.id}/events"):
            answer = await client.get(path, headers={"Last-Event-ID": "100000"})
            problem(answer, 400, "invalid_last_event_id")

    async def test_another_projects_job_looks_like_none(
        self, client: httpx.AsyncClient, database: Database
    ) -> None:
        row = await factories.job(database, await factories.project(database, "others"))
        problem(await client.get(f"/api/v1/jobs/{row.id}/events"), 404, "job_not_found")
        problem(await client.get(f"/api/v1/jobs/{uuid4()}/events"), 404, "job_not_found")
        problem(await client.get("/api/v1/jobs/1/events"), 404, "job_not_found")

    async def test_without_a_key_or_with_a_misspelt_parameter(
        self, anonymous: httpx.AsyncClient, client: httpx.AsyncClient
    ) -> None:
        problem(await anonymous.get("/api/v1/events"), 401, "unauthenticated")
        problem(await client.get("/api/v1/events?lastEventId=1"), 422, "unknown_parameter")

    async def test_head_has_the_head_and_no_end_to_wait_for(self, http: httpx.AsyncClient) -> None:
        answer = await http.head("/events", timeout=2)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert answer.headers["cache-control"] == "no-store"


class TestServer:
    async def test_told_to_stop_it_ends_all_streams_at_once(
        self, server: Server, http: httpx.AsyncClient, database: Database, project_id: UUID
    ) -> None:
        row = await factories.job(database, project_id)
        async with opened(http, "/events") as everything, opened(http, f"/jobs/{row.id}/events") as stream:
            await stream.event()
            started = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            assert await stream.end() == []
            assert [line for line in await everything.end() if line.startswith("data")] == []
            assert time.monotonic() - started < 2.9, "at once, not at the next look"
        assert await asyncio.to_thread(server.process.wait, 20) in {0, -signal.SIGTERM}
        log = server.log.read_text()
        assert "Traceback" not in log
        assert f"GET /api/v1/jobs/{row.id}/events 200" in log

    async def test_more_streams_than_the_limit_are_told(
        self, make_server: MakeServer, key: str, database: Database, project_id: UUID
    ) -> None:
        server = make_server(API_MAX_WAITING="2")
        base = f"http://127.0.0.1:{server.port}/api/v1"
        async with httpx.AsyncClient(base_url=base, headers=bearer(key)) as http:
            async with opened(http, "/events"), opened(http, "/events"):
                problem(await http.get("/events"), 503, "too_many_waiting")
            await asyncio.sleep(0.2)
            async with opened(http, "/events"):
                pass

    async def test_a_reader_that_does_not_read_is_cut_off_and_loses_nothing(
        self, make_server: MakeServer, database: Database, project_id: UUID, key: str
    ) -> None:
        server = make_server()
        row = await factories.job(database, project_id)
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.settimeout(10)
            slow.connect(("127.0.0.1", server.port))
            head = f"GET /api/v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n"
            slow.sendall(head.encode())
            assert (await asyncio.to_thread(slow.recv, 100)).startswith(b"HTTP/1.1 200")  # it listens
            await insert_events(database, row.id, 2, 12_000)
            async with client_of(server, key) as http, opened(http, "/events", after=0) as quick:
                for _ in range(3000):
                    await quick.event()
            await until(lambda: "reads its events too slowly" in server.log.read_text())
            received = b""
            try:
                while piece := await asyncio.to_thread(slow.recv, 1 << 20):
                    received += piece
            except ConnectionError:
                pass
        last = int(received.rpartition(b"\nevent: ")[0].rpartition(b"id: ")[2])
        assert last < 12_000
        async with client_of(server, key) as http, opened(http, "/events", after=last) as stream:
            assert (await stream.event())["id"] == last + 1

    async def test_a_quiet_stream_beats_and_ends_with_its_key(
        self, make_server: MakeServer, database: Database, project_id: UUID, key: str
    ) -> None:
        server = make_server(STREAM_HEARTBEAT_SECONDS="1")
        row = await factories.job(database, project_id)
        async with (
            client_of(server, key) as http,
            opened(http, "/events") as stream,
            opened(http, f"/jobs/{row.id}/events") as of_job,
        ):
            for each in (stream, of_job):
                async with asyncio.timeout(3):
                    async for line in each._lines:
                        if line == ":":
                            break
            async with database.transaction() as db:
                await db.execute(text("UPDATE api_keys SET revoked_at = now()"))
            for each in (stream, of_job):
                assert set(await each.end(9)) <= {":"}


async def insert_events(
    database: Database, job_id: UUID, first: int, last: int, *, pause: float = 0.0
) -> None:
    """Events as transitions write them: the job's row first, which draws the transaction's id, then the event."""
    async with database.transaction() as db:
        await db.execute(text("UPDATE jobs SET version = :last WHERE id = :id"), {"id": job_id, "last": last})
        if pause:
            await db.execute(text("SELECT pg_sleep(:pause)"), {"pause": pause / 2})
        await db.execute(
            text(
                "INSERT INTO job_events (project_id, job_id, version, type, data) "
                "SELECT project_id, id, version.number, 'job.running', '{}' "
                "FROM jobs, generate_series(CAST(:first AS int), :last) AS version(number) WHERE id = :id"
            ),
            {"id": job_id, "first": first, "last": last},
        )
        if pause:
            await db.execute(text("SELECT pg_sleep(:pause)"), {"pause": pause / 2})
