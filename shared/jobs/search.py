"""Pages of jobs by any filter, each in bounded work, however many jobs there are.

A **source** is a way to read jobs newest first, lazily, out of one index. A page takes the source with the fewest
candidates, looks at ``_CANDIDATES`` of them at most, and keeps those that the rest of the filter lets through. Where
that fills no page although there are more candidates, the page is shorter and its cursor says where to go on: the
answer stays exact, and no request scans the table. See ``docs/decisions/0013-lists.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.jobs.list_schemas import JobFilter
from shared.jobs.queries import VIEW
from shared.jobs.status import FINAL, State

#: Jobs that one page looks at, at most.
_CANDIDATES = 2000
#: A source with as many is taken to be long; no more are counted.
_LONG = 1000
#: What the trigram index may take: a pattern of frequent trigrams has no other bound.
_TRIGRAMS_MILLISECONDS = 25
#: Characters of a prompt that are searched.
PROMPT_CHARS = 2000

_NEWEST_FIRST = "ORDER BY created_at DESC, id DESC"
#: The three partial indexes of what is not final.
_LIVE = """(state = 'running' OR (state = 'queued' AND published_at IS NULL)
            OR (state = 'queued' AND published_at IS NOT NULL))"""
_IS_FINAL = "state IN ('succeeded', 'failed', 'cancelled', 'expired')"

#: Every combination of the columns before the time that there is, one descent into the index for each.
_COMBINATIONS = text(f"""
    WITH RECURSIVE found AS (
        (SELECT state, kind, model, priority FROM jobs WHERE project_id = :project_id AND {_IS_FINAL}
         ORDER BY project_id, state, kind, model, priority LIMIT 1)
        UNION ALL
        SELECT next.* FROM found CROSS JOIN LATERAL (
            SELECT state, kind, model, priority FROM jobs
            WHERE project_id = :project_id AND {_IS_FINAL}
              AND (state, kind, model, priority) > (found.state, found.kind, found.model, found.priority)
            ORDER BY project_id, state, kind, model, priority LIMIT 1) AS next
    )
    SELECT * FROM found
""")

#: A plan for one filter is none for another; to compile such a statement takes longer than to run it.
_PLAN_EACH_TIME = text(
    "SELECT set_config('plan_cache_mode', 'force_custom_plan', true), set_config('jit', 'off', true)"
)
_HURRY = text(f"SET LOCAL statement_timeout = {_TRIGRAMS_MILLISECONDS}")
_CANCELLED = "57014"
_PROMPTS_THROUGH = text("SELECT through FROM progress WHERE name = 'prompts'")


class Position(NamedTuple):
    """Where a page ends: the next one begins after this job."""

    created_at: datetime
    id: UUID


class Page(NamedTuple):
    """Rows of ``queries.VIEW``, and where the next page begins; None: there is nothing more."""

    rows: list[Row[Any]]
    next: Position | None


@dataclass(slots=True)
class _Source:
    """A SELECT of jobs without its limit; ``covers`` names the conditions that it sees to."""

    select: str
    covers: frozenset[str] = frozenset()
    parameters: dict[str, Any] = field(default_factory=dict)
    #: The same with ``created_at`` and ``id`` alone, where that is less work.
    positions: str = ""

    def __post_init__(self) -> None:
        self.positions = self.positions or self.select


async def page(
    db: AsyncConnection, project_id: UUID, wanted: JobFilter, *, limit: int, after: Position | None
) -> Page:
    """The next jobs of a project that the filter lets through, newest first: ``limit`` at most, perhaps fewer."""
    await db.execute(_PLAN_EACH_TIME)
    where, parameters = _conditions(wanted)
    parameters |= {"project_id": project_id, **_window(wanted, after)}
    source = await _shortest(db, await _sources(db, wanted, parameters), parameters)
    parameters |= source.parameters
    rest = [condition for name, condition in where.items() if name not in source.covers]
    rows = await _read(db, source.select, rest, parameters, limit + 1)
    if len(rows) > limit:
        return Page(rows[:limit], _position(rows[limit - 1]))
    seen = await _last_seen(db, source.positions, parameters) if rest else None
    if seen is None:
        return Page(rows, None)
    if wanted.q is None:
        return Page(rows, seen)
    beyond = await _by_trigrams(db, where, parameters, seen, limit + 1 - len(rows))
    if beyond is None:
        return Page(rows, seen)
    rows += beyond
    return Page(rows[:limit], _position(rows[limit - 1]) if len(rows) > limit else None)


def _conditions(wanted: JobFilter) -> tuple[dict[str, str], dict[str, Any]]:
    """A condition on ``jobs`` for each part of the filter but the window of time, and their parameters."""
    where: dict[str, str] = {}
    parameters: dict[str, Any] = {}
    if wanted.state:
        where["state"] = "state = ANY(CAST(:states AS text[]))"
        parameters["states"] = wanted.state
    for name in ("kind", "model", "priority"):
        value = getattr(wanted, name)
        if value is not None:
            where[name] = f"{name} = :{name}"
            parameters[name] = value
    if wanted.batch is not None:
        where["batch"] = "batch_id = :batch"
        parameters["batch"] = wanted.batch
    if wanted.tag:
        where["tags"] = "tags @> CAST(:tags AS text[])"
        parameters["tags"] = wanted.tag
    for number, (key, _, value) in enumerate(pair.partition("=") for pair in wanted.metadata):
        where[f"metadata {number}"] = f"metadata ->> :key_{number} = :value_{number}"
        parameters |= {f"key_{number}": key, f"value_{number}": value}
    if wanted.q is not None:
        where["prompt"] = f"left(input ->> 'prompt', {PROMPT_CHARS}) ILIKE :pattern"
        escaped = wanted.q.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        parameters["pattern"] = f"%{escaped}%"
    return where, parameters


def _window(wanted: JobFilter, after: Position | None) -> dict[str, Any]:
    """Every source reads between these, so that one statement does for all pages."""
    position = after
    if wanted.created_before is not None and (after is None or wanted.created_before <= after.created_at):
        position = Position(wanted.created_before, UUID(int=0))
    return {
        "until": position.created_at if position else "infinity",
        "until_id": position.id if position else UUID(int=0),
        # Of a batch, where every job has the same time, the index needs the id alone.
        "below": after.id if after else UUID(int=2**128 - 1),
        "since": wanted.created_after or "-infinity",
    }


def _between(job_id: str = "id") -> str:
    return (
        f"(created_at, {job_id}) < (CAST(:until AS timestamptz), CAST(:until_id AS uuid)) "
        "AND created_at >= CAST(:since AS timestamptz)"
    )


async def _sources(db: AsyncConnection, wanted: JobFilter, parameters: dict[str, Any]) -> list[_Source]:
    """The indexes that fit this filter; at least one."""
    if wanted.batch is not None:
        return [_of_batch()]  # ten thousand jobs at most
    labels = [f"#{tag}" for tag in wanted.tag] + wanted.metadata
    found = [_of_label(label, number) for number, label in enumerate(labels)]
    if wanted.state or wanted.kind or wanted.model or wanted.priority:
        found.append(await _of_columns(db, wanted, parameters))
    return found or [_newest()]


def _newest() -> _Source:
    where = f"FROM jobs WHERE project_id = :project_id AND {_between()} {_NEWEST_FIRST}"
    return _Source(f"SELECT * {where}", positions=f"SELECT created_at, id {where}")


def _of_label(label: str, number: int) -> _Source:
    labelled = f"""
        SELECT created_at, job_id AS id FROM job_labels
        WHERE project_id = :project_id AND label = :label_{number} AND {_between("job_id")}"""
    return _Source(
        f"SELECT jobs.* FROM ({labelled}) AS l JOIN jobs USING (id) ORDER BY l.created_at DESC, l.id DESC",
        parameters={f"label_{number}": label},
        positions=f"{labelled} {_NEWEST_FIRST}",
    )


def _of_batch() -> _Source:
    """Made in one transaction, so all are of one time, and their ids are in order."""
    # As a range of both columns: with one batch and a LIMIT, the planner may rather walk through all jobs by id.
    where = f"""FROM jobs WHERE project_id = :project_id AND batch_id IS NOT NULL
        AND (batch_id, id) < (CAST(:batch AS uuid), CAST(:below AS uuid))
        AND (batch_id, id) >= (CAST(:batch AS uuid), CAST('{UUID(int=0)}' AS uuid))
        AND {_between()} ORDER BY batch_id DESC, id DESC"""
    return _Source(f"SELECT * {where}", frozenset({"batch"}), positions=f"SELECT created_at, id {where}")


async def _of_columns(db: AsyncConnection, wanted: JobFilter, parameters: dict[str, Any]) -> _Source:
    """One branch for each combination of state, kind, model and priority that is wanted, merged in order."""
    states = wanted.state or list(State)
    equal = [
        f"{name} = :{name}" for name in ("kind", "model", "priority") if getattr(wanted, name) is not None
    ]
    branches: list[str] = []
    values: dict[str, Any] = {}
    if not FINAL.issuperset(states):
        branches.append(" AND ".join([_LIVE, "state = ANY(CAST(:live AS text[]))", *equal]))
        values["live"] = [state for state in states if state not in FINAL]
    if not FINAL.isdisjoint(states):
        for number, row in enumerate(
            await db.execute(_COMBINATIONS, {"project_id": parameters["project_id"]})
        ):
            if row.state in states and all(
                getattr(wanted, name) in {None, getattr(row, name)} for name in _COLUMNS
            ):
                parts = [f"{name} = :{name}_{number}" for name in ("state", *_COLUMNS)]
                branches.append(" AND ".join([_IS_FINAL, *parts]))
                values |= {f"{name}_{number}": getattr(row, name) for name in ("state", *_COLUMNS)}
    selects = [
        f"(SELECT * FROM jobs WHERE project_id = :project_id AND {branch} AND {_between()} {_NEWEST_FIRST})"
        for branch in branches or ["false"]
    ]
    union = " UNION ALL ".join(selects)
    return _Source(f"SELECT * FROM ({union}) AS u {_NEWEST_FIRST}", frozenset({"state", *_COLUMNS}), values)


_COLUMNS = ("kind", "model", "priority")


async def _shortest(db: AsyncConnection, sources: list[_Source], parameters: dict[str, Any]) -> _Source:
    """The one with the fewest candidates, as far as counting goes; among long ones the last."""
    if len(sources) == 1:
        return sources[0]
    sizes = []
    for source in sources:
        count = text(f"SELECT count(*) FROM (SELECT id FROM ({source.positions}) AS s LIMIT {_LONG}) AS c")
        given = parameters | source.parameters | {"candidates": _LONG}
        sizes.append((await db.execute(count, given)).scalar_one())
    return sources[max(range(len(sizes)), key=lambda number: (-sizes[number], number))]


async def _read(
    db: AsyncConnection, select: str, rest: Sequence[str], parameters: dict[str, Any], limit: int
) -> list[Row[Any]]:
    where = f"WHERE {' AND '.join(rest)}" if rest else ""
    statement = text(
        f"SELECT {VIEW} FROM (SELECT * FROM ({select} LIMIT :candidates) AS c {where} LIMIT :limit) AS j "
        "ORDER BY j.created_at DESC, j.id DESC"
    )
    candidates = _CANDIDATES if rest else limit
    return list(await db.execute(statement, parameters | {"candidates": candidates, "limit": limit}))


async def _last_seen(db: AsyncConnection, positions: str, parameters: dict[str, Any]) -> Position | None:
    """The last candidate; None where there were fewer than one page looks at, so that nothing is left."""
    statement = text(
        f"SELECT created_at, id FROM ({positions} LIMIT :candidates) AS c OFFSET {_CANDIDATES - 1}"
    )
    row = (await db.execute(statement, parameters | {"candidates": _CANDIDATES})).one_or_none()
    return _position(row) if row else None


async def _by_trigrams(
    db: AsyncConnection, where: dict[str, str], parameters: dict[str, Any], seen: Position, limit: int
) -> list[Row[Any]] | None:
    """What lies beyond the jobs that were looked at, out of the index on prompts.

    None: it cannot say, because beat has not copied the prompts yet, or because it would take too long.
    """
    through = (await db.execute(_PROMPTS_THROUGH)).scalar_one()
    if seen.created_at > through:
        return None
    statement = text(f"""
        WITH found AS MATERIALIZED (
            SELECT job_id FROM job_prompts
            WHERE project_id = :project_id AND prompt ILIKE :pattern AND {_between("job_id")}
        )
        SELECT {VIEW} FROM (
            SELECT * FROM jobs WHERE id = ANY(ARRAY(SELECT job_id FROM found))
            {"".join(f" AND {condition}" for name, condition in where.items() if name != "prompt")}
            {_NEWEST_FIRST} LIMIT :limit
        ) AS j ORDER BY j.created_at DESC, j.id DESC
    """)
    beyond = {"until": seen.created_at, "until_id": seen.id, "limit": limit}
    try:
        async with db.begin_nested():
            await db.execute(_HURRY)
            return list(await db.execute(statement, parameters | beyond))
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) != _CANCELLED:
            raise
        return None


def _position(row: Row[Any]) -> Position:
    return Position(row.created_at, row.id)
