"""What the API does with webhooks: endpoints, their secrets, and the ledger of deliveries."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID

import orjson
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection
from uuid_utils.compat import uuid7

from shared.addresses import Policy, RefusedUrlError, parse
from shared.config import Settings
from shared.db import Database, within
from shared.errors import Conflict, FieldError, NotFound, ValidationFailed
from shared.events.types import OF_JOBS
from shared.webhooks import queries, signing
from shared.webhooks.schemas import TEST, DeliveryQuery, Redeliver, WebhookCreate, WebhookUpdate

Result = TypeVar("Result")

#: Endpoints of one project: each event of it is looked at for each of them.
MAX_ENDPOINTS = 50
_MAX_REDELIVERIES = 1000
_MAX_ATTEMPTS_SHOWN = 100


class WebhookService:
    """One a process. Everything is within one project; another's ids are simply not found."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._patience = settings.database_statement_timeout + 1
        self._policy = Policy.of(settings)

    async def create(self, project_id: UUID, wanted: WebhookCreate) -> tuple[Row[Any], str]:
        """The endpoint and its secret, which nobody is shown again.

        Raises:
            ValidationFailed: the address may not be called.
            Conflict: there are too many.
        """
        check_url(wanted.url, self._policy, "/url")
        endpoint_id, secret = uuid7(), signing.new_secret()

        async def write(db: AsyncConnection) -> Row[Any]:
            await queries.lock_project(db, project_id)
            if await queries.count(db, project_id) >= MAX_ENDPOINTS:
                raise Conflict(
                    f"The project has {MAX_ENDPOINTS} webhooks, as many as it may have; delete one first.",
                    code="too_many_webhooks",
                )
            await queries.insert(
                db,
                project_id,
                endpoint_id=endpoint_id,
                url=wanted.url,
                events=wanted.events,
                description=wanted.description,
                paused=wanted.paused,
            )
            await queries.rotate(db, project_id, endpoint_id, secret, overlap=0)
            return await _existing(db, project_id, endpoint_id)

        return await self._in_transaction(write), signing.shown(secret)

    async def all(self, project_id: UUID) -> list[Row[Any]]:
        return await self._in_transaction(lambda db: queries.list_all(db, project_id))

    async def get(self, project_id: UUID, endpoint_id: UUID) -> Row[Any]:
        """Raises: NotFound."""
        return await self._in_transaction(lambda db: _existing(db, project_id, endpoint_id))

    async def update(self, project_id: UUID, endpoint_id: UUID, wanted: WebhookUpdate) -> Row[Any]:
        """Raises: NotFound, ValidationFailed."""
        changes = wanted.model_dump(exclude_unset=True, exclude_none=True)
        if "url" in changes:
            check_url(changes["url"], self._policy, "/url")

        async def write(db: AsyncConnection) -> Row[Any]:
            await queries.update(db, project_id, endpoint_id, changes)
            return await _existing(db, project_id, endpoint_id)

        return await self._in_transaction(write)

    async def delete(self, project_id: UUID, endpoint_id: UUID) -> None:
        """Raises: NotFound."""
        if not await self._in_transaction(lambda db: queries.delete(db, project_id, endpoint_id)):
            raise _not_found(endpoint_id)

    async def rotate(self, project_id: UUID, endpoint_id: UUID, overlap: float) -> tuple[Row[Any], str]:
        """A new secret; the one before it signs for ``overlap`` seconds more.

        Raises:
            NotFound: no such endpoint in the project.
        """
        secret = signing.new_secret()

        async def write(db: AsyncConnection) -> Row[Any]:
            await _existing(db, project_id, endpoint_id)
            await queries.rotate(db, project_id, endpoint_id, secret, overlap=overlap)
            return await _existing(db, project_id, endpoint_id)

        return await self._in_transaction(write), signing.shown(secret)

    async def job_secret(self, project_id: UUID) -> Row[Any] | None:
        """Which secret signs what goes to the addresses that jobs name; None: there is none yet."""
        return await self._in_transaction(lambda db: queries.of_jobs(db, project_id))

    async def rotate_job_secret(self, project_id: UUID, overlap: float) -> tuple[Row[Any], str]:
        """Likewise a new one, or the first."""
        secret = signing.new_secret()

        async def write(db: AsyncConnection) -> Row[Any]:
            await queries.insert_of_jobs(db, project_id, OF_JOBS)
            row = await queries.of_jobs(db, project_id)
            assert row is not None, "it was just made"
            await queries.rotate(db, project_id, row.id, secret, overlap=overlap)
            row = await queries.of_jobs(db, project_id)
            assert row is not None, "it is never deleted"
            return row

        return await self._in_transaction(write), signing.shown(secret)

    async def ping(self, project_id: UUID, endpoint_id: UUID) -> Row[Any]:
        """The delivery of a test message.

        Raises:
            NotFound: no such endpoint in the project.
            Conflict: nothing is sent to it at present.
        """

        async def write(db: AsyncConnection) -> Row[Any]:
            _sends(await _existing(db, project_id, endpoint_id))
            body = {
                "type": TEST,
                "timestamp": datetime.now(UTC),
                "data": {"webhook_id": endpoint_id, "message": "It works: this is a test."},
            }
            text = orjson.dumps(body, option=orjson.OPT_UTC_Z).decode()
            made = await queries.insert_delivery(db, project_id, endpoint_id, kind=TEST, body=text)
            return await _delivery(db, project_id, made)

        return await self._in_transaction(write)

    async def deliveries(self, project_id: UUID, query: DeliveryQuery) -> tuple[list[Row[Any]], UUID | None]:
        """A page and the cursor of the next one."""
        wanted = query.model_dump(exclude_none=True, exclude={"limit"})
        rows = await self._in_transaction(
            lambda db: queries.deliveries(db, project_id, wanted, limit=query.limit + 1)
        )
        page = rows[: query.limit]
        return page, page[-1].id if len(rows) > query.limit else None

    async def delivery(self, project_id: UUID, delivery_id: UUID) -> tuple[Row[Any], list[Row[Any]]]:
        """One with its attempts.

        Raises:
            NotFound: no such delivery in the project.
        """

        async def read(db: AsyncConnection) -> tuple[Row[Any], list[Row[Any]]]:
            row = await _delivery(db, project_id, delivery_id)
            return row, await queries.attempts(db, delivery_id, limit=_MAX_ATTEMPTS_SHOWN)

        return await self._in_transaction(read)

    async def redeliver(self, project_id: UUID, delivery_id: UUID) -> Row[Any]:
        """Sends a delivery once more, at once, and on from the beginning of the schedule.

        Raises:
            NotFound: no such delivery in the project.
            Conflict: nothing is sent to its endpoint at present.
        """

        async def write(db: AsyncConnection) -> Row[Any]:
            row = await _delivery(db, project_id, delivery_id)
            if not row.of_job:
                _sends(await _existing(db, project_id, row.endpoint_id))
            await queries.redeliver(db, project_id, delivery_id)
            return await _delivery(db, project_id, delivery_id)

        return await self._in_transaction(write)

    async def redeliver_many(
        self, project_id: UUID, endpoint_id: UUID, wanted: Redeliver
    ) -> tuple[int, UUID | None]:
        """How many of an endpoint's deliveries are sent once more, and the cursor of the rest.

        Raises:
            NotFound: no such endpoint in the project.
            Conflict: nothing is sent to it at present.
        """
        states = ("failed", "delivered") if wanted.state == "any" else (wanted.state,)

        async def write(db: AsyncConnection) -> list[UUID]:
            _sends(await _existing(db, project_id, endpoint_id))
            return await queries.redeliver_many(
                db,
                project_id,
                endpoint_id,
                states=states,
                after=wanted.created_after,
                before=wanted.created_before,
                cursor=wanted.cursor,
                limit=_MAX_REDELIVERIES,
            )

        done = await self._in_transaction(write)
        return len(done), done[-1] if len(done) == _MAX_REDELIVERIES else None

    async def _in_transaction(self, work: Callable[[AsyncConnection], Awaitable[Result]]) -> Result:
        async def run() -> Result:
            async with self._database.transaction() as db:
                return await work(db)

        return await within(self._patience, run())


class JobWebhooks:
    """What a submit with a ``webhook_url`` has to pass; one without never comes here."""

    #: Projects whose secret was seen: it is never deleted.
    _MOST_KNOWN = 10_000

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._patience = settings.database_statement_timeout + 1
        self._policy = Policy.of(settings)
        self._known: set[UUID] = set()

    async def check(self, project_id: UUID, url: str) -> None:
        """Raises: ValidationFailed: the address may not be called, or nothing could sign what is sent there."""
        check_url(url, self._policy, "/webhook_url")
        if project_id in self._known:
            return

        async def read() -> Row[Any] | None:
            async with self._database.transaction() as db:
                return await queries.of_jobs(db, project_id)

        if await within(self._patience, read()) is None:
            message = (
                "needs a secret that signs what is sent there: POST /api/v1/webhooks/job-secret makes it"
            )
            raise ValidationFailed(
                "The project has no secret for webhook_url yet.",
                code="webhook_secret_needed",
                errors=[FieldError("/webhook_url", "webhook_secret_needed", message)],
            )
        if len(self._known) >= self._MOST_KNOWN:
            self._known.clear()
        self._known.add(project_id)


def check_url(url: str, policy: Policy, pointer: str) -> None:
    """Raises: ValidationFailed: whatever its host resolves to, this may not be called."""
    try:
        parse(url, policy)
    except RefusedUrlError as error:
        raise ValidationFailed(
            "The address is not allowed.", errors=[FieldError(pointer, "url_refused", str(error))]
        ) from None


def _sends(row: Row[Any]) -> None:
    """Raises: Conflict: the endpoint is paused or disabled."""
    if row.paused_at or row.disabled_at:
        what = "disabled" if row.disabled_at else "paused"
        raise Conflict(
            f"The webhook is {what}; PATCH it with paused: false first.", code="webhook_not_active"
        )


async def _existing(db: AsyncConnection, project_id: UUID, endpoint_id: UUID) -> Row[Any]:
    row = await queries.get(db, project_id, endpoint_id)
    if row is None:
        raise _not_found(endpoint_id)
    return row


async def _delivery(db: AsyncConnection, project_id: UUID, delivery_id: UUID) -> Row[Any]:
    row = await queries.delivery(db, project_id, delivery_id)
    if row is None:
        raise NotFound(f"There is no delivery {delivery_id} in this project.", code="delivery_not_found")
    return row


def _not_found(endpoint_id: UUID) -> NotFound:
    return NotFound(f"There is no webhook {endpoint_id} in this project.", code="webhook_not_found")
