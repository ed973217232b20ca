"""Our messages against those of the installed Celery and kombu: an upgrade that changes them is seen here."""

from __future__ import annotations

import base64
import json
from typing import Any
from uuid import uuid4

import pytest
from redis import Redis

from shared.config import Settings
from shared.envelope import RUN_JOB, Envelope
from shared.queue import ALL_QUEUES, Doorbell, make_celery


def _comparable(message: bytes | str, job_id: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(message)
    loaded["body"] = json.loads(base64.b64decode(loaded["body"]))
    # Made anew for each message, and for each process and thread.
    assert loaded["properties"].pop("delivery_tag")
    loaded["properties"].pop("reply_to")
    loaded["headers"].pop("origin")
    text = json.dumps(loaded).replace(job_id, "JOB")
    assert text.count("JOB") == 5, text  # id, root_id, argsrepr, correlation_id, the argument
    comparable: dict[str, Any] = json.loads(text)
    return comparable


async def test_a_message_is_what_send_task_sends(settings: Settings) -> None:
    broker = Redis.from_url(settings.redis_url.get_secret_value())
    app, doorbell = make_celery(settings), Doorbell(settings)
    try:
        for queue in ALL_QUEUES:
            ours, theirs = uuid4(), str(uuid4())
            assert await doorbell.ring([(ours, queue)]) == []
            app.send_task(RUN_JOB, args=(theirs,), task_id=theirs, queue=queue, ignore_result=True)
            newest, oldest = broker.lrange(queue, 0, -1)
            assert _comparable(oldest, str(ours)) == _comparable(newest, theirs)
    finally:
        await doorbell.close()
        broker.close()
        app.close()


async def test_many_in_one_round_trip_each_with_a_tag_of_its_own(settings: Settings) -> None:
    broker = Redis.from_url(settings.redis_url.get_secret_value())
    doorbell = Doorbell(settings)
    jobs = [(uuid4(), queue) for queue in ALL_QUEUES for _ in range(200)]
    try:
        assert await doorbell.ring(jobs) == []
        assert await doorbell.depths(ALL_QUEUES) == dict.fromkeys(ALL_QUEUES, 200)
        messages = [json.loads(each) for queue in ALL_QUEUES for each in broker.lrange(queue, 0, -1)]
    finally:
        await doorbell.close()
        broker.close()
    assert {message["headers"]["id"] for message in messages} == {str(job_id) for job_id, _ in jobs}
    assert len({message["properties"]["delivery_tag"] for message in messages}) == len(jobs)


@pytest.mark.parametrize("before", range(4))
@pytest.mark.parametrize("after", range(4))
def test_wherever_the_id_stands_in_a_body(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, before: int, after: int
) -> None:
    """Three bytes are four letters of base64, and Celery may begin a body otherwise one day."""

    def sent(app: object, queue: str, job_id: str) -> dict[str, Any]:
        body = f"{'%' * before}{job_id}{'>' * after}".encode()
        properties = {"body_encoding": "base64", "correlation_id": job_id, "delivery_tag": "x"}
        return {
            "body": base64.b64encode(body).decode(),
            "headers": {"100 %b": "%%"},
            "properties": properties,
        }

    monkeypatch.setattr("shared.envelope._sent", sent)
    job_id = uuid4()
    message = json.loads(Envelope(make_celery(settings), "text.standard").addressed(job_id))
    assert base64.b64decode(message["body"]).decode() == f"{'%' * before}{job_id}{'>' * after}"
    assert message["headers"] == {"100 %b": "%%"}
    assert message["properties"]["correlation_id"] == str(job_id)
