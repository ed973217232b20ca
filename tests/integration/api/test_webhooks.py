"""Webhooks as the API keeps them; tests/integration/worker has their way to the receiver."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from sqlalchemy import text

from api import render
from shared.db import Database
from shared.events import queries as events
from shared.jobs.status import State
from shared.webhooks import sending
from shared.webhooks.service import MAX_ENDPOINTS
from tests import factories
from tests.integration.api.conftest import bearer, problem

HOOKS = "/api/v1/webhooks"
URL = "https://example.com/hook"


async def made(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    response = await client.post(HOOKS, json={"url": URL, **fields})
    assert response.status_code == 201, response.text
    body: dict[str, Any] = response.json()
    assert response.headers["location"] == f"{HOOKS}/{body['id']}"
    return body


async def run(database: Database, statement: str, **parameters: Any) -> list[Any]:
    async with database.transaction() as db:
        found = await db.execute(text(statement), parameters)
        return list(found) if found.returns_rows else []


async def test_its_life(client: httpx.AsyncClient) -> None:
    hook = await made(client)
    assert hook.pop("secret").startswith("whsec_")
    assert hook["events"] == ["job.succeeded", "job.failed", "job.cancelled", "job.expired"]
    assert (hook["paused"], hook["disabled_at"], hook["failing_since"], hook["description"]) == (
        False,
        None,
        None,
        "",
    )
    where = f"{HOOKS}/{hook['id']}"
    assert (await client.get(where)).json() == hook
    assert (await client.get(HOOKS)).json() == {"items": [hook]}

    changes = {
        "description": "mine",
        "events": ["job.failed", "job.failed"],
        "paused": True,
        "url": f"{URL}/2",
    }
    changed = (await client.patch(where, json=changes)).json()
    assert changed["updated_at"] > hook["updated_at"]
    expected = hook | changes | {"events": ["job.failed"], "updated_at": changed["updated_at"]}
    assert changed == expected
    # What is left out stays.
    assert (await client.patch(where, json={})).json() | {"updated_at": 0} == expected | {"updated_at": 0}
    # An object that says nothing is one; no body at all is more likely a mistake.
    problem(await client.patch(where), 415, "unsupported_media_type")
    empty = await client.patch(where, headers={"Content-Type": "application/json"})
    assert "The body is empty" in problem(empty, 400, "invalid_json")["detail"]
    paths = (await client.get("/openapi.json")).json()["paths"]
    assert paths["/api/v1/webhooks/{webhook_id}"]["patch"]["requestBody"]["required"] is True

    assert (await client.delete(where)).status_code == 204
    problem(await client.get(where), 404, "webhook_not_found")
    problem(await client.delete(where), 404, "webhook_not_found")
    assert (await client.get(HOOKS)).json() == {"items": []}


async def test_a_secret_is_shown_once_and_two_at_most_are_valid(
    client: httpx.AsyncClient, database: Database
) -> None:
    hook = await made(client)
    where = f"{HOOKS}/{hook['id']}"
    shown = [hook["secret"]]
    for body in ({}, None, {"overlap": 60}):
        response = (
            await client.post(f"{where}/secret", json=body)
            if body is not None
            else await client.post(f"{where}/secret")
        )
        assert response.status_code == 201, response.text
        shown.append(response.json()["secret"])
        assert response.json()["previous_secret_until"] > response.json()["secret_created_at"]
        rows = await run(database, "SELECT expires_at FROM webhook_secrets ORDER BY created_at")
        assert [row.expires_at is None for row in rows] == [False, True]
    response = await client.post(f"{where}/secret", json={"overlap": 0})
    assert response.json()["previous_secret_until"] is None
    assert len(set(shown)) == 4
    for path in (where, HOOKS):
        assert "whsec_" not in (await client.get(path)).text
    errors = problem(await client.post(f"{where}/secret", json={"overlap": -1}), 422, "validation_failed")[
        "errors"
    ]
    assert errors[0]["pointer"] == "/overlap"


@pytest.mark.parametrize(
    ("body", "pointer", "code"),
    [
        ({}, "/url", "missing"),
        ({"url": "https://10.0.0.1/"}, "/url", "url_refused"),
        ({"url": "https://[::ffff:169.254.169.254]/"}, "/url", "url_refused"),
        ({"url": "https://u:p@example.com/"}, "/url", "url_refused"),
        ({"url": "ftp://example.com/"}, "/url", "url_refused"),
        ({"url": "https://example.com/" + "a" * 2048}, "/url", "string_too_long"),
        ({"url": "https://example.com/\0"}, "/url", "null_character"),
        ({"url": URL, "events": []}, "/events", "too_short"),
        ({"url": URL, "events": ["job.exploded"]}, "/events/0", "enum"),
        ({"url": URL, "description": "x" * 257}, "/description", "string_too_long"),
        ({"url": URL, "paused": "yes"}, "/paused", "bool_type"),
        ({"url": URL, "secret": "whsec_mine"}, "/secret", "extra_forbidden"),
    ],
)
async def test_what_is_not_allowed_is_named(
    client: httpx.AsyncClient, body: dict[str, Any], pointer: str, code: str
) -> None:
    found = problem(await client.post(HOOKS, json=body), 422, "validation_failed")
    assert [(entry["pointer"], entry["code"]) for entry in found["errors"]] == [(pointer, code)]
    if code == "enum":
        assert "job.succeeded" in found["errors"][0]["allowed"]


async def test_a_project_has_so_many_at_most_and_sees_its_own(
    client: httpx.AsyncClient, anonymous: httpx.AsyncClient, database: Database
) -> None:
    for _ in range(MAX_ENDPOINTS):
        hook = await made(client)
    problem(await client.post(HOOKS, json={"url": URL}), 409, "too_many_webhooks")
    ping = (await client.post(f"{HOOKS}/{hook['id']}/ping")).json()["id"]
    stranger = bearer(await factories.key(database, project="stranger"))
    assert (await anonymous.get(HOOKS, headers=stranger)).json() == {"items": []}
    assert (await anonymous.get(f"{HOOKS}/deliveries", headers=stranger)).json()["items"] == []
    since = {"created_after": "2020-01-01T00:00:00Z"}
    for method, path, body in (
        ("GET", f"/{hook['id']}", None),
        ("PATCH", f"/{hook['id']}", {"url": URL}),
        ("DELETE", f"/{hook['id']}", None),
        ("POST", f"/{hook['id']}/secret", {}),
        ("POST", f"/{hook['id']}/ping", None),
        ("POST", f"/{hook['id']}/redeliver", since),
        ("GET", f"/deliveries/{ping}", None),
        ("POST", f"/deliveries/{ping}/redeliver", None),
        ("GET", "/no-id", None),
        ("GET", "/deliveries/no-id", None),
    ):
        response = await anonymous.request(method, HOOKS + path, headers=stranger, json=body)
        problem(response, 404, "delivery_not_found" if "deliveries" in path else "webhook_not_found")
    reader = bearer(await factories.key(database, scopes=["jobs:read"]))
    problem(await anonymous.post(HOOKS, headers=reader, json={"url": URL}), 403, "insufficient_scope")
    assert (await anonymous.get(HOOKS, headers=reader)).status_code == 200


async def test_the_ledger(client: httpx.AsyncClient, database: Database, project_id: UUID) -> None:
    hook, other = await made(client), await made(client)
    where = f"{HOOKS}/{hook['id']}"
    response = await client.post(f"{where}/ping")
    assert response.status_code == 202
    ping = response.json()
    assert (ping["type"], ping["state"], ping["attempt"], ping["webhook_id"]) == (
        "webhook.test",
        "pending",
        0,
        hook["id"],
    )
    job = uuid4()
    await run(
        database,
        """
        INSERT INTO webhook_deliveries (id, project_id, endpoint_id, event_id, job_id, type, body, state, created_at, finished_at)
        SELECT gen_random_uuid(), :project, :hook, n, :job, 'job.failed', '{"type":"job.failed"}',
               CASE WHEN n <= 3 THEN 'failed' ELSE 'delivered' END, timestamptz '2030-01-01T00:00Z' + n * interval '1h', now()
        FROM generate_series(1, 5) n
        """,
        project=project_id,
        hook=UUID(hook["id"]),
        job=job,
    )

    async def ids(**query: Any) -> list[str]:
        found, cursor = [], None
        while True:
            page = {**query, "limit": 2} | ({"cursor": cursor} if cursor else {})
            answer = (await client.get(f"{HOOKS}/deliveries", params=page)).json()
            found += [item["id"] for item in answer["items"]]
            cursor = answer["next_cursor"]
            if cursor is None:
                return found

    assert len(await ids()) == 6
    assert await ids() == sorted(await ids(), reverse=True)
    assert await ids(webhook_id=other["id"]) == []
    assert await ids(webhook_id=hook["id"], state="pending") == [ping["id"]]
    assert len(await ids(job_id=str(job), state="failed")) == 3
    assert len(await ids(created_after="2030-01-01T02:00:00Z", created_before="2030-01-01T04:00:00Z")) == 2
    problem(await client.get(f"{HOOKS}/deliveries?state=lost"), 422, "validation_failed")

    detail = (await client.get(f"{HOOKS}/deliveries/{ping['id']}")).json()
    assert detail["body"]["type"] == "webhook.test"
    assert detail["body"]["data"]["webhook_id"] == hook["id"]
    assert detail["attempts"] == []

    wanted: dict[str, Any] = {
        "created_after": "2030-01-01T02:00:00Z",
        "created_before": "2030-01-01T05:00:00Z",
    }
    response = await client.post(f"{where}/redeliver", json=wanted)
    assert (response.status_code, response.json()) == (202, {"redelivered": 2, "next_cursor": None})
    assert (await client.post(f"{where}/redeliver", json=wanted)).json()["redelivered"] == 0
    assert (await client.post(f"{where}/redeliver", json={**wanted, "state": "any"})).json()[
        "redelivered"
    ] == 1
    assert len(await ids(state="pending")) == 4
    one = (await ids(state="failed"))[0]
    again = (await client.post(f"{HOOKS}/deliveries/{one}/redeliver")).json()
    assert (again["id"], again["state"], again["finished_at"]) == (one, "pending", None)

    await client.patch(where, json={"paused": True})
    for path in (f"{where}/ping", f"{HOOKS}/deliveries/{one}/redeliver"):
        problem(await client.post(path), 409, "webhook_not_active")
    problem(await client.post(f"{where}/redeliver", json=wanted), 409, "webhook_not_active")
    problem(await client.post(f"{where}/redeliver", json={}), 422, "validation_failed")

    assert (await client.delete(where)).status_code == 204
    assert await ids() == []


async def test_a_jobs_own_address_needs_a_secret_that_signs(
    client: httpx.AsyncClient, database: Database
) -> None:
    secret = f"{HOOKS}/job-secret"
    job = {**factories.TEXT_JOB, "webhook_url": URL}
    nothing = {"secret_created_at": None, "previous_secret_until": None}
    assert (await client.get(secret)).json() == nothing
    found = problem(await client.post("/api/v1/jobs", json=job), 422, "webhook_secret_needed")
    assert found["errors"][0]["pointer"] == "/webhook_url"
    shown = await client.post(secret)
    assert shown.status_code == 201
    assert shown.json()["secret"].startswith("whsec_")
    assert (await client.get(secret)).json() == {
        "secret_created_at": shown.json()["secret_created_at"],
        "previous_secret_until": None,
    }
    rotated = (await client.post(secret, json={"overlap": 60})).json()
    assert rotated["previous_secret_until"] is not None
    assert rotated["secret"] != shown.json()["secret"]
    assert (await client.get(HOOKS)).json() == {"items": []}

    for headers in ({}, {"Idempotency-Key": "k"}):
        assert (await client.post("/api/v1/jobs", json=job, headers=headers)).status_code == 202
    events = {"webhook_events": ["job.running"]}
    accepted = await client.post("/api/v1/jobs", json=job | events)
    assert accepted.status_code == 202
    assert "webhook_url" not in accepted.text
    assert (await client.post("/api/v1/jobs", json=factories.TEXT_JOB)).status_code == 202
    rows = await run(database, "SELECT webhook_url, webhook_events FROM jobs ORDER BY created_at")
    endings = ["job.succeeded", "job.failed", "job.cancelled", "job.expired"]
    assert [(row.webhook_url, row.webhook_events) for row in rows] == [
        (URL, endings),
        (URL, endings),
        (URL, ["job.running"]),
        (None, None),
    ]

    wrong: list[tuple[dict[str, Any], str]] = [
        ({"webhook_url": "https://127.1/"}, "/webhook_url"),
        ({"webhook_url": URL, "webhook_events": ["webhook.disabled"]}, "/webhook_events"),
        ({"webhook_events": ["job.running"], "webhook_url": None}, ""),
    ]
    for shape, pointer in wrong:
        found = problem(
            await client.post("/api/v1/jobs", json=factories.TEXT_JOB | shape), 422, "validation_failed"
        )
        assert found["errors"][0]["pointer"] == pointer


async def test_a_deleted_jobs_messages_go_with_it(
    client: httpx.AsyncClient, database: Database, project_id: UUID
) -> None:
    hook = await made(client)
    row = await factories.job(database, project_id, state=State.SUCCEEDED, result={"text": "x"})
    await run(
        database,
        "INSERT INTO webhook_deliveries (id, project_id, endpoint_id, event_id, job_id, type, body) "
        "VALUES (gen_random_uuid(), :project, :hook, 1, :job, 'job.succeeded', '{}')",
        project=project_id,
        hook=UUID(hook["id"]),
        job=row.id,
    )
    assert (await client.delete(f"/api/v1/jobs/{row.id}")).status_code == 204
    assert (await client.get(f"{HOOKS}/deliveries")).json()["items"] == []


async def test_a_notice_stands_in_the_projects_stream(
    client: httpx.AsyncClient, database: Database, project_id: UUID
) -> None:
    hook = await made(client, description="mine")
    async with database.transaction() as db:
        await sending.disable(db, [UUID(hook["id"])], gone=[UUID(hook["id"])], after=1)
    async with database.transaction() as db:
        (row,) = await events.of_projects(db, [project_id], after=0, until=10, limit=10)
    sent = render.sse(row, "")
    assert b"event: webhook.disabled" in sent
    assert b'"job_id":null' in sent
    assert b'"reason":"gone"' in sent
    assert hook["id"].encode() in sent
    found = (await client.get(f"{HOOKS}/{hook['id']}")).json()
    assert (found["disabled_reason"], found["disabled_at"] is not None) == ("gone", True)
    assert (await client.patch(f"{HOOKS}/{hook['id']}", json={"paused": False})).json()["disabled_at"] is None


async def test_many_are_sent_again_page_by_page_each_once(
    client: httpx.AsyncClient, database: Database
) -> None:
    """Those of the first page may have arrived before the second is asked for."""
    hook = (await client.post(HOOKS, json={"url": URL})).json()
    async with database.transaction() as db:
        await db.execute(
            text("""
                INSERT INTO webhook_deliveries (id, project_id, endpoint_id, event_id, type, body, state, finished_at)
                SELECT gen_random_uuid(), project_id, w.id, n, 'job.failed', '{}', 'delivered', now()
                FROM webhook_endpoints w, generate_series(1, 2500) n
            """)
        )
    wanted = {"created_after": "2020-01-01T00:00:00Z", "state": "any"}
    counts, cursor = [], None
    for _ in range(3):
        given = wanted if cursor is None else {**wanted, "cursor": cursor}
        answer = (await client.post(f"{HOOKS}/{hook['id']}/redeliver", json=given)).json()
        counts.append(answer["redelivered"])
        cursor = answer["next_cursor"]
        async with database.transaction() as db:
            arrived = "UPDATE webhook_deliveries SET state = 'delivered', finished_at = now(), attempt = attempt + 1"
            await db.execute(text(f"{arrived} WHERE state = 'pending'"))
    async with database.transaction() as db:
        sent = (await db.execute(text("SELECT DISTINCT attempt FROM webhook_deliveries"))).scalars().all()
    assert (counts, cursor, sent) == ([1000, 1000, 500], None, [1])
    assert (
        await client.post(f"{HOOKS}/{hook['id']}/redeliver", json={**wanted, "cursor": "x"})
    ).status_code == 422
