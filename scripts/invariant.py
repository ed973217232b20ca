"""Invariant I, from the database, the simulator's counters and what clients were told; never from logs.

Every accepted job reaches a final state. Provider calls stay within policy. Never two succeeded attempts. At most one set
of artifacts. Nothing that a client was told is ever taken back.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise
from typing import Any, Protocol

import psycopg
from psycopg.rows import dict_row

from scripts.client import FINAL

#: The state after an event; other events leave it as it was.
_STATE_AFTER = {
    "job.queued": "queued",
    "job.running": "running",
    "job.retry_scheduled": "queued",
    "job.cancel_requested": "running",
    **{f"job.{state}": state for state in FINAL},
}
#: Which state may follow which; running follows running when a cancel is asked for.
_MAY_FOLLOW = {
    "queued": {"running", "cancelled", "expired", "queued"},
    "running": {"running", "queued", "succeeded", "failed", "cancelled"},
}

Row = dict[str, Any]


class Told(Protocol):
    """What clients know of one job: each (version, state) in the order in which they saw them."""

    @property
    def seen(self) -> Sequence[tuple[int, str]]: ...


#: Calls by job and attempt.
Calls = Mapping[str, Mapping[str, int]]


@dataclass
class Facts:
    """Everything there is to know afterwards."""

    jobs: dict[str, Row]
    attempts: dict[str, list[Row]]
    events: dict[str, list[Row]]
    artifacts: dict[str, list[Row]]
    stray_bytes: int
    bare_artifacts: int
    calls: Calls
    told: Mapping[str, Told]

    @property
    def made(self) -> int:
        return sum(sum(by_attempt.values()) for by_attempt in self.calls.values())


def gather(database_url: str, calls: Calls, told: Mapping[str, Told]) -> Facts:
    """Reads the database in one snapshot."""
    with psycopg.connect(database_url, row_factory=dict_row) as db:
        db.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")

        def rows(query: str) -> list[Row]:
            return list(db.execute(query.encode()))

        def by_job(query: str) -> dict[str, list[Row]]:
            found: dict[str, list[Row]] = defaultdict(list)
            for row in rows(query):
                found[str(row["job_id"])].append(row)
            return found

        return Facts(
            jobs={str(row["id"]): row for row in rows("SELECT * FROM jobs")},
            attempts=by_job("SELECT * FROM attempts ORDER BY job_id, number"),
            events=by_job("SELECT * FROM job_events ORDER BY job_id, version"),
            artifacts=by_job("SELECT * FROM artifacts WHERE role = 'output' ORDER BY job_id, position"),
            stray_bytes=len(
                rows(
                    "SELECT 1 FROM artifact_bytes b LEFT JOIN artifacts a ON a.id = b.artifact_id WHERE a.id IS NULL"
                )
            ),
            bare_artifacts=len(
                rows(
                    "SELECT 1 FROM artifacts a LEFT JOIN artifact_bytes b ON b.artifact_id = a.id "
                    "WHERE b.artifact_id IS NULL OR length(b.data) <> a.byte_size OR sha256(b.data) <> a.sha256"
                )
            ),
            calls=calls,
            told=told,
        )


def check(facts: Facts, expected: tuple[int, int]) -> None:
    """Fails with all violations at once. ``expected``: provider calls, at least and at most."""
    wrong = violations(facts, expected)
    assert not wrong, f"invariant I is broken in {len(wrong)} ways:\n" + "\n".join(wrong[:25])


def violations(facts: Facts, expected: tuple[int, int] | None = None) -> list[str]:
    """All that is not as it must be, in words; ``expected`` as in ``check``, where a number is known beforehand."""
    return list(_violations(facts, expected))


def _violations(facts: Facts, expected: tuple[int, int] | None) -> Iterator[str]:
    for job_id in facts.told:
        if job_id not in facts.jobs:
            yield f"{job_id}: was accepted and is not in the database"
    for job_id in facts.calls:
        if job_id not in facts.jobs:
            yield f"{job_id}: the provider was called for a job that is not in the database"
    for job_id, job in facts.jobs.items():
        attempts, events = facts.attempts.get(job_id, []), facts.events.get(job_id, [])
        problems = [
            *_of_job(job, attempts),
            *_of_calls(job, attempts, facts.calls.get(job_id, {})),
            *_of_artifacts(job, facts.artifacts.get(job_id, [])),
            *_of_events(job, events),
            *_of_told(job, events, facts.told.get(job_id)),
        ]
        for problem in problems:
            yield f"{job_id} ({job['state']}, attempt {job['attempt']}): {problem}"
    if facts.stray_bytes or facts.bare_artifacts:
        yield f"{facts.stray_bytes} pictures' bytes without an artifact, {facts.bare_artifacts} artifacts without theirs"
    if expected is None:
        return
    least, most = expected
    if not least <= facts.made <= most:
        yield f"{facts.made} provider calls were made; expected were {_range(expected)}"


def _of_job(job: Row, attempts: list[Row]) -> Iterator[str]:
    if job["state"] not in FINAL:
        yield "is not final"
    if [row["number"] for row in attempts] != list(range(1, job["attempt"] + 1)):
        yield f"attempts are numbered {[row['number'] for row in attempts]}"
    open_ones = [row["number"] for row in attempts if row["outcome"] is None]
    if open_ones:
        yield f"attempts {open_ones} are open"
    succeeded = [row["number"] for row in attempts if row["outcome"] == "succeeded"]
    if succeeded != ([job["attempt"]] if job["state"] == "succeeded" else []):
        yield f"attempts {succeeded} succeeded"
    counted = sum(1 for row in attempts if row["counted"])
    if counted != job["attempt"] - job["snoozes"] or counted > job["max_attempts"]:
        yield f"{counted} attempts count, {job['snoozes']} were snoozed, {job['max_attempts']} are allowed"
    spent = sum((row["cost_usd"] for row in attempts), Decimal(0))
    if spent != job["cost_usd"]:
        yield f"its attempts cost {spent}, it says {job['cost_usd']}"


def _of_calls(job: Row, attempts: list[Row], calls: Mapping[str, int]) -> Iterator[str]:
    known = {str(row["number"]): row for row in attempts}
    for number, made in calls.items():
        row = known.get(number)
        if row is None or row["sent_at"] is None:
            yield f"attempt {number} called the provider and says it did not"
        if made > 1:
            yield f"attempt {number} called the provider {made} times"
    for row in attempts:
        made = calls.get(str(row["number"]), 0)
        if row["answered_at"] is not None and made == 0:
            yield f"attempt {row['number']} was answered without a call"
        if row["outcome"] == "unknown" and row["cost_usd"] != row["estimated_cost_usd"]:
            yield f"attempt {row['number']} of unknown outcome does not count its estimate"
    if job["on_unknown"] == "fail":
        for row in attempts[:-1]:
            if row["outcome"] == "unknown":
                yield f"attempt {row['number']} was unknown, and on_unknown=fail was not heeded"


def _of_artifacts(job: Row, artifacts: list[Row]) -> Iterator[str]:
    images = (job["result"] or {}).get("images", []) if job["kind"].startswith("image.") else []
    if [str(row["id"]) for row in artifacts] != [image["artifact_id"] for image in images]:
        yield f"has {len(artifacts)} artifacts where its result names {len(images)}"


def _of_events(job: Row, events: list[Row]) -> Iterator[str]:
    versions = [row["version"] for row in events]
    if versions != list(range(1, job["version"] + 1)):
        yield f"is version {job['version']}, with events {versions}"
    states = [_STATE_AFTER[row["type"]] for row in events if row["type"] in _STATE_AFTER]
    if not states or states[-1] != job["state"]:
        yield f"its events end as {states[-1:]}"
    for before, after in pairwise(states):
        if after not in _MAY_FOLLOW.get(before, set()):
            yield f"an event made it {after} after it was {before}"


def _of_told(job: Row, events: list[Row], told: Told | None) -> Iterator[str]:
    if told is None:
        return
    after = {row["version"]: _STATE_AFTER.get(row["type"]) for row in events}
    for version, state in told.seen:
        if version not in after:
            yield f"a client was told version {version}, which is not there"
        elif after[version] not in {state, None}:
            yield f"a client was told that version {version} is {state}; its event says {after[version]}"
        if state in FINAL and (state, version) != (job["state"], job["version"]):
            yield f"a client was told that it is {state}, and that was taken back"


def _range(expected: tuple[int, int]) -> str:
    least, most = expected
    return str(least) if least == most else f"{least} to {most}"
