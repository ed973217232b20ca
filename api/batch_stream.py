"""A batch's progress as server-sent events."""

from __future__ import annotations

from uuid import UUID

from fastapi import Request

from api import render
from api.batch_views import batch_view
from api.deps import caller_of
from api.streams import EventStream
from shared.batches.schemas import BatchState
from shared.batches.service import Batch

#: Between two looks, in seconds: its counts are no fresher.
_LOOK_SECONDS = 1.0


class BatchStream(EventStream):
    """Its counts whenever they have changed; ends with the batch."""

    def __init__(self, request: Request, batch_id: UUID) -> None:
        super().__init__(request, None)
        self._batch_id = batch_id

    async def run(self) -> None:
        hub, batches = self.services.hub, self.services.batches
        project_id, last = caller_of(self.request).project_id, b""
        hub.add(self._batch_id, self.bell)
        try:
            await self.open()
            while True:
                batch = await batches.get(project_id, self._batch_id)
                view = render.dumps(batch_view(batch, self.request.scope["public_url"]))
                if batch.state is BatchState.COMPLETED:
                    await self._complete(batch, view)
                    return
                if view != last:
                    last = view
                    await self.write(b"event: batch.progress\ndata: %s\n\n" % view)
                if not await self.pause(_LOOK_SECONDS):
                    return
        finally:
            hub.remove(self._batch_id, self.bell)

    async def _complete(self, batch: Batch, view: bytes) -> None:
        number = await self.services.batches.completion(batch.row.id)
        name = b"id: %d\n" % number if number is not None else b""
        await self.write(b"%sevent: batch.completed\ndata: %s\n\n" % (name, view))
