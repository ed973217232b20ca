"""The message about a job, in the form that Celery and kombu give it, without asking them each time.

``send_task`` costs 165 µs a message, most of it for what is the same in all of them. So it is called once a queue, for a
placeholder, on kombu's in-memory transport; what comes out is kept, and each job's message is that text with its own id.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from binascii import b2a_base64
from collections.abc import Callable, Sequence
from itertools import count
from operator import itemgetter
from typing import Any
from uuid import UUID, uuid4

import orjson
from celery import Celery
from kombu.connection import Connection

from shared.names import name_of

#: Named outright, so that moving a module orphans no message.
RUN_JOB = "plantain.jobs.run"
_PROCESS, _SERIAL = uuid4().hex.encode(), count()
#: What stands in the text where messages differ; nothing else in it looks like these.
_ID, _BODY, _TAG = "<job's id>", "<body>", "<tag>"
_PLACES = re.compile(f"({_ID}|{_BODY}|{_TAG})".encode())


class Envelope:
    """The message about a job in one queue."""

    def __init__(self, app: Celery, queue: str) -> None:
        job_id = str(uuid4())
        message = _sent(app, queue, job_id)
        body = b64decode(message["body"])
        assert message["properties"]["body_encoding"] == "base64"
        assert message["properties"]["correlation_id"] == job_id
        before, after = body.split(job_id.encode())
        # Three bytes are four letters of base64: what stands before and after the id is nearly all the same in each message.
        cut = len(before) // 3 * 3
        self._before = before[cut:]
        rest = -(len(self._before) + len(job_id)) % 3
        self._after = after[:rest]
        message["body"] = b64encode(before[:cut]).decode() + _BODY + b64encode(after[rest:]).decode()
        message["properties"]["delivery_tag"] = _TAG
        parts = _PLACES.split(
            orjson.dumps(message).replace(job_id.encode(), _ID.encode()).replace(b"%", b"%%")
        )
        places = [part.decode() for part in parts[1::2]]
        assert places.count(_BODY) == places.count(_TAG) == 1
        assert _ID in places
        self._text = b"".join([*(part + b"%b" for part in parts[:-1:2]), parts[-1]])
        self._in_order: Callable[[Sequence[bytes]], tuple[bytes, ...]] = itemgetter(
            *((_ID, _BODY, _TAG).index(place) for place in places)
        )

    def addressed(self, job_id: UUID) -> bytes:
        """The message about one job. Its id is the task's id, so that Flower shows the name that the client knows."""
        name = name_of(job_id)
        body = b2a_base64(self._before + name + self._after, newline=False)
        # A tag is any text that no other message has: a random one for each would cost as much as all the rest.
        return self._text % self._in_order((name, body, b"%b-%d" % (_PROCESS, next(_SERIAL))))


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
