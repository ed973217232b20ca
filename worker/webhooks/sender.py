"""Sends deliveries: takes what is due, as much as there is room for, and records what came of it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Row

from shared.addresses import OutboundError, Policy
from shared.coalesce import Coalescer
from shared.config import Settings
from shared.db import Database, is_unavailable
from shared.outbound import Answer, Outbound
from shared.wakeups import Wakeups
from shared.webhooks import sending, signing
from worker.webhooks import schedule
from worker.webhooks.lanes import AT_FIRST, Lane, Lanes

log = logging.getLogger(__name__)

#: Of an answer so much is kept: enough to see what it says, too little to be a store.
ANSWER_BYTES = 1024
#: The status says whether it arrived; what is said besides is waited for so long.
_BODY_SECONDS = 2.0
#: Beyond a sending's own time, its lease leaves so long for recording it.
_LEASE_MARGIN = 15.0
#: An endpoint at which nothing has arrived for so long is disabled.
DISABLE_AFTER_SECONDS = 5 * 86_400.0
#: At the end, what is under way may take so long.
_FAREWELL_SECONDS = 2.0
_GONE = 410


@dataclass(frozen=True, slots=True)
class Sent:
    """What came of one sending; ``counted`` says whether it moves on in the schedule."""

    row: dict[str, Any]
    endpoint_id: UUID
    gone: bool = False


class Sender:
    """One a process. ``free`` is called whenever there is room again."""

    def __init__(
        self, database: Database, settings: Settings, wakeups: Wakeups, free: Callable[[], None]
    ) -> None:
        self._database = database
        self._wakeups = wakeups
        self._free = free
        self._timeout = settings.webhook_timeout
        self._lease = settings.webhook_timeout + _LEASE_MARGIN
        self._outbound = Outbound(Policy.of(settings))
        self._lanes = Lanes()
        self._under_way: dict[asyncio.Task[None], tuple[UUID, int]] = {}
        self._record: Coalescer[Sent, None] = Coalescer(
            self._record_batch, max_batch=100, is_shared_fault=is_unavailable
        )

    async def fill(self) -> int:
        """Begins what is due and has room; answers how many."""
        if self._lanes.room <= 0:
            return 0
        async with self._database.transaction() as db:
            claimed = await sending.claim(
                db,
                limit=self._lanes.room,
                unproven=self._lanes.room_for_unproven,
                at_first=AT_FIRST,
                rooms=self._lanes.rooms(),
                lease=self._lease,
            )
        for row in claimed:
            self._lanes.begin((row.endpoint_id, row.lane))
            task = asyncio.create_task(self._deliver(row))
            self._under_way[task] = (row.id, row.attempt)
            task.add_done_callback(self._under_way.pop)
        return len(claimed)

    async def close(self) -> None:
        """Ends what is under way; what does not end in time goes to the next process at once."""
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=_FAREWELL_SECONDS)
        broken_off = dict(self._under_way)
        for task in broken_off:
            task.cancel()
        await asyncio.gather(*broken_off, return_exceptions=True)
        if broken_off:
            try:
                async with self._database.transaction() as db:
                    await sending.give_back(db, dict(broken_off.values()), "the sender was stopped")
            except Exception as error:
                if not is_unavailable(error):
                    raise
        await self._outbound.aclose()

    async def _deliver(self, row: Row[Any]) -> None:
        lane: Lane = (row.endpoint_id, row.lane)
        ok, pause = False, None
        try:
            started = time.monotonic()
            answer, error = await self._post(row)
            took = time.monotonic() - started
            asked = schedule.retry_after(answer.headers.get("retry-after")) if answer else None
            ok, pause = error is None, asked
            await self._store(_sent(row, answer, error, took, asked), until=started + self._lease)
        except Exception:  # the lease runs out, and it is sent again
            log.exception("webhook %s could not be sent or recorded", row.id)
        finally:
            self._lanes.end(lane, ok=ok, pause=None if ok else pause)
            self._free()

    async def _post(self, row: Row[Any]) -> tuple[Answer | None, str | None]:
        """The answer, if there was one, and what was wrong, if anything was."""
        body = row.body.encode()
        headers = {
            "content-type": "application/json",
            "user-agent": "Plantain-Webhooks/1",
            **signing.headers(str(row.id), row.timestamp, body, row.secrets),
        }
        try:
            answer = await self._outbound.request(
                "POST",
                row.url,
                timeout=self._timeout,
                max_bytes=ANSWER_BYTES,
                headers=headers,
                content=body,
                body_seconds=_BODY_SECONDS,
            )
        except OutboundError as error:
            return None, str(error)
        except Exception:  # it counts as any other failure: it must not come back for ever
            log.exception("webhook %s could not be sent", row.id)
            return None, "it could not be sent; the server's log says why"
        return answer, _complaint(answer.status)

    async def _store(self, sent: Sent, until: float) -> None:
        """Records it. While the database is away it is tried again, until somebody else may send it."""
        while True:
            try:
                return await self._record(sent)
            except Exception as error:
                if not is_unavailable(error) or time.monotonic() > until:
                    raise
                self._database.outage.failed(error)
            await asyncio.sleep(1)

    async def _record_batch(self, batch: Sequence[Sent]) -> Sequence[None]:
        async with self._database.transaction() as db:
            seen = await sending.record(db, [sent.row for sent in batch])
            well = [row.endpoint_id for row in seen if row.ok and row.failing]
            failed = [row.endpoint_id for row in seen if row.failed and not row.ok]
            await sending.note_health(db, well=well, failing=failed)
            gone = [sent.endpoint_id for sent in batch if sent.gone]
            disabled = (
                await sending.disable(db, failed, gone=gone, after=DISABLE_AFTER_SECONDS) if failed else []
            )
        for row in disabled:
            log.warning("webhook endpoint %s was disabled: %s", row.id, row.disabled_reason)
        self._wakeups.changed([(row.project_id, row.id) for row in disabled])
        return [None] * len(batch)


def _sent(
    row: Row[Any], answer: Answer | None, error: str | None, took: float, retry_after: float | None
) -> Sent:
    gone = answer is not None and answer.status == _GONE
    again = None if error is None or gone else schedule.delay(row.failures, retry_after)
    written = {
        "id": row.id,
        "number": row.attempt,
        "ok": error is None,
        "counted": error is not None,
        "duration_ms": round(took * 1000, 1),
        "status": answer.status if answer else None,
        "answer": _text(answer.body) if answer else None,
        "error": error,
        "delay": again,
    }
    return Sent(written, row.endpoint_id, gone and not row.of_job)


def _complaint(status: int) -> str | None:
    """What is wrong with an answer; None: it is well."""
    match status // 100:
        case 2:
            return None
        case 3:
            return f"answered with a redirect ({status}), which is not followed: change the url instead"
        case _:
            return f"answered with {status}"


def _text(body: bytes) -> str:
    """Bytes of a stranger's, as PostgreSQL can keep them."""
    return body.decode("utf-8", "replace").replace("\0", "\ufffd")
