"""Celery as its tutorial has it: the prefork pool, results in Redis, a blocking HTTP client."""

import os
from collections.abc import Sequence
from functools import cache

import psycopg
import requests
from celery import Celery

app = Celery("peer", broker=os.environ["REDIS_URL"], backend=os.environ["REDIS_URL"])
app.conf.broker_connection_retry_on_startup = True
URL = os.environ["PROVIDER_URL"] + "/v1beta/models/loopback:generateContent"
#: More processes than that do not fit beside each other.
MOST_PROCESSES = 100


@cache
def database() -> psycopg.Connection:
    """One connection a process."""
    return psycopg.connect(os.environ["DATABASE_URL"], autocommit=True)


@cache
def http() -> requests.Session:
    return requests.Session()


@app.task(name="run")
def run(job_id: str) -> None:
    row = (
        database()
        .execute(
            "UPDATE jobs SET state = 'running', claimed_at = now() "
            "WHERE id = %s AND state = 'queued' RETURNING prompt",
            [job_id],
        )
        .fetchone()
    )
    if row is None:
        return
    answer = http().post(URL, json={"contents": [{"parts": [{"text": row[0]}]}]}, timeout=60)
    answer.raise_for_status()
    database().execute(
        "UPDATE jobs SET state = 'succeeded', finished_at = now(), result = %s WHERE id = %s",
        [answer.text, job_id],
    )


async def enqueue(job_ids: Sequence[str]) -> None:
    for job_id in job_ids:
        run.delay(job_id)


def command(concurrency: int) -> list[str]:
    processes = min(concurrency, MOST_PROCESSES)
    return ["-m", "celery", "-A", __name__, "worker", f"--concurrency={processes}", "--loglevel=WARNING"]
