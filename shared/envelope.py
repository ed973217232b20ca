"""The message about a job, in the form that Celery and kombu give it, without asking them each time.

``send_task`` costs 165 µs a message, most of it for what is the same in all of them. So it is called once a queue, for a
placeholder, on kombu's in-memory transport; what comes out is kept, and each job's message is that text with its own id.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from itertools import count
from typing import Any
from uuid import UUID, uuid4

import orjson
from celery import Celery
from kombu.connection import Connection

#: Named outright, so that moving a module orphans no message.
RUN_JOB = "plantain.jobs.run"
_PROCESS, _SERIAL = uuid4().hex.encode(), count()


class Envelope:
    """The message about a job in one queue."""

    def __init__(self, app: Celery, queue: str) -> None:
        job_id = str(uuid4())
        message = _sent(app, queue, job_id)
        body = b64decode(message["body"])
        assert message["properties"]["body_encoding"] == "base64"
        assert message["properties"]["correlation_id"] == job_id
        assert body.count(job_id.encode()) == 1
        message["body"] = message["properties"]["delivery_tag"] = None
        #: The body around the job's id.
        self._body = body.split(job_id.encode())
        # Around what differs: null is where body and tag stand, the placeholder where the job's id does.
        text = orjson.dumps(message).replace(b'"body":null', b'"body":"\0"')
        text = text.replace(b'"delivery_tag":null', b'"delivery_tag":"\1"')
        self._text = text.replace(job_id.encode(), b"\2")
        assert self._text.count(b"\0") == self._text.count(b"\1") == 1

    def addressed(self, job_id: UUID) -> bytes:
        """The message about one job. Its id is the task's id, so that Flower shows the name that the client knows."""
        name = str(job_id).encode()
        body = b64encode(name.join(self._body))
        text = self._text.replace(b"\2", name).replace(b"\0", body)
        # A tag is any text that no other message has: a random one for each would cost as much as all the rest.
        return text.replace(b"\1", b"%s-%d" % (_PROCESS, next(_SERIAL)))


def _sent(app: Celery, queue: str, task_id: str) -> dict[str, Any]:
    """What Celery sends for the task, as kombu's virtual transports hand it to their servers."""
    with Connection("memory://") as connection:  # type: ignore[no-untyped-call]
        channel = connection.channel()
        producer = app.amqp.Producer(channel, auto_declare=False)
        app.amqp.queues[queue](channel).declare()
        app.send_task(
            RUN_JOB,
            args=(task_id,),
            task_id=task_id,
            queue=queue,
            producer=producer,
            ignore_result=True,
            retry=False,
        )
        message: dict[str, Any] = channel._get(queue)  # noqa: SLF001  what a virtual transport implements
        channel.queue_delete(queue)
        return message
