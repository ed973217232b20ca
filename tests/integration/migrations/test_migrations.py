"""Migrations as they are run in earnest: ``python -m alembic`` as a process, on an empty database."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine

from shared.models import Base
from tests.conftest import scratch_database

ROOT = Path(__file__).resolve().parents[3]
TABLES = {
    "projects",
    "api_keys",
    "jobs",
    "attempts",
    "batches",
    "job_events",
    "job_labels",
    "job_prompts",
    "job_daily_totals",
    "job_totals",
    "progress",
    "artifacts",
    "artifact_bytes",
    "uploads",
    "upload_chunks",
    "model_gates",
    "idempotency_keys",
    "workers",
    "webhook_endpoints",
    "webhook_secrets",
    "webhook_deliveries",
    "webhook_attempts",
    "webhook_progress",
}
#: What belongs to no project.
WITHOUT_PROJECT = {
    "projects",
    "model_gates",
    "progress",
    "workers",
    "webhook_progress",
    "alembic_version",
}


def start(url: str, *arguments: str) -> subprocess.Popen[str]:
    environment = {
        **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
        "ENVIRONMENT": "test",
        "DATABASE_URL": url,
        "REDIS_URL": "redis://127.0.0.1:1/0",
    }
    command = [sys.executable, "-m", "alembic", *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True)


def finish(process: subprocess.Popen[str], seconds: float = 30) -> tuple[int, str]:
    """Exit status and everything that was printed."""
    try:
        out, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return process.returncode, out + errors


def alembic(url: str, *arguments: str) -> str:
    status, printed = finish(start(url, *arguments))
    assert status == 0, printed
    return printed


def ask(url: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(query.encode()).fetchall()


def objects(url: str) -> set[str]:
    """Everything in the public schema that a migration could have left: tables, indexes, sequences, types, functions."""
    rows = ask(
        url,
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace "
        "UNION SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace "
        "UNION SELECT typname FROM pg_type WHERE typnamespace = 'public'::regnamespace "
        "UNION SELECT extname FROM pg_extension WHERE extname <> 'plpgsql'",
    )
    return {name for (name,) in rows}


@pytest.fixture(scope="module")
def url(server_url: str, template_database: str) -> Iterator[str]:
    """A migrated database that tests only read."""
    with scratch_database(server_url, "plantain_test_migrated", template_database) as made:
        yield made


def test_up_down_and_up_again(empty_database_url: str) -> None:
    alembic(empty_database_url, "upgrade", "head")
    assert objects(empty_database_url) >= TABLES
    once = objects(empty_database_url)

    alembic(empty_database_url, "downgrade", "base")
    left = objects(empty_database_url)
    assert {name for name in left if "alembic_version" not in name} == set()

    alembic(empty_database_url, "upgrade", "head")
    assert objects(empty_database_url) == once
    assert "No new upgrade operations detected" in alembic(empty_database_url, "check")


def test_the_models_say_what_the_migrations_made(url: str) -> None:
    engine = create_engine(f"postgresql+psycopg://{url.partition('://')[2]}")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
    engine.dispose()


def test_checks_are_those_of_the_models(url: str, empty_database_url: str) -> None:
    """Autogenerate does not compare CHECKs and index predicates, so both ways of making a database are compared here."""
    engine = create_engine(f"postgresql+psycopg://{empty_database_url.partition('://')[2]}")
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE EXTENSION pg_trgm")
        Base.metadata.create_all(connection)
    engine.dispose()
    for query in (
        (
            "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint "
            "WHERE connamespace = 'public'::regnamespace AND conname NOT LIKE 'alembic%' ORDER BY 1"
        ),
        (
            "SELECT indexname, indexdef FROM pg_indexes "
            "WHERE schemaname = 'public' AND indexname NOT LIKE 'alembic%' ORDER BY 1"
        ),
        (
            "SELECT table_name, column_name, data_type, is_nullable, column_default FROM information_schema.columns "
            "WHERE table_schema = 'public' AND table_name <> 'alembic_version' ORDER BY 1, 2"
        ),
    ):
        assert ask(url, query) == ask(empty_database_url, query)


def test_a_locked_table_makes_the_migration_fail_soon(empty_database_url: str) -> None:
    alembic(empty_database_url, "upgrade", "head")
    with psycopg.connect(empty_database_url) as reader:
        reader.execute("SELECT 1 FROM jobs")  # as any query in a transaction that stays open
        started = time.monotonic()
        status, printed = finish(start(empty_database_url, "downgrade", "base"))
        took = time.monotonic() - started
    assert status != 0
    assert "lock timeout" in printed.lower()
    assert took < 25
    # Each migration is a transaction of its own: the one that failed has left everything as it was.
    assert objects(empty_database_url) >= TABLES - {
        "model_gates",
        "idempotency_keys",
        "uploads",
        "upload_chunks",
        "job_daily_totals",
    }


def test_references_go_while_jobs_are_submitted(empty_database_url: str) -> None:
    """A submit has its event's table and then asks for its project: who held that would make one of them fail."""
    alembic(empty_database_url, "upgrade", "0012")
    notice = "INSERT INTO job_events (project_id, type, data) VALUES (gen_random_uuid(), 'x', '{}')"
    with (
        psycopg.connect(empty_database_url) as submit,
        psycopg.connect(empty_database_url, autocommit=True) as other,
    ):
        submit.execute("LOCK TABLE job_events IN ROW EXCLUSIVE MODE")
        process = start(empty_database_url, "upgrade", "0013")
        while not other.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchall():
            assert process.poll() is None, finish(process)
            time.sleep(0.01)
        submit.execute("LOCK TABLE attempts, projects IN ROW SHARE MODE")
        submit.rollback()
    status, printed = finish(process)
    assert status == 0, printed
    # It may have ended after the references were gone, and before it was noted.
    with psycopg.connect(empty_database_url, autocommit=True) as other:
        other.execute("UPDATE alembic_version SET version_num = '0012'")
        alembic(empty_database_url, "upgrade", "0013")
        # Nothing stops a notice without a project now; on the way back it goes.
        other.execute(notice)
        alembic(empty_database_url, "downgrade", "0012")
        assert other.execute("SELECT count(*) FROM job_events").fetchall() == [(0,)]
    constraint = "SELECT convalidated FROM pg_constraint WHERE conname LIKE 'fk_%_project_id_projects' AND conrelid IN "
    assert (
        ask(empty_database_url, constraint + "('job_events'::regclass, 'attempts'::regclass)")
        == [(True,)] * 2
    )


def test_two_migrations_at_once(empty_database_url: str) -> None:
    both = [start(empty_database_url, "upgrade", "head") for _ in range(2)]
    for process in both:
        status, printed = finish(process)
        assert status == 0, printed
    assert ask(empty_database_url, "SELECT count(*) FROM alembic_version") == [(1,)]
    assert objects(empty_database_url) >= TABLES


def test_a_migration_waits_for_the_one_under_way(empty_database_url: str) -> None:
    key = int.from_bytes(b"plantain", "big")
    with psycopg.connect(empty_database_url, autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(%s)", (key,))
        process = start(empty_database_url, "upgrade", "head")
        waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        deadline = time.monotonic() + 20
        while ask(empty_database_url, waiting) == [(0,)]:
            assert process.poll() is None, finish(process)
            assert time.monotonic() < deadline, "it did not wait for the other one"
            time.sleep(0.05)
        assert "jobs" not in objects(empty_database_url)
        other.execute("SELECT pg_advisory_unlock(%s)", (key,))
        status, printed = finish(process)
    assert status == 0, printed
    assert objects(empty_database_url) >= TABLES


def test_it_can_be_printed_as_sql(empty_database_url: str) -> None:
    printed = alembic(empty_database_url, "upgrade", "head", "--sql")
    assert "CREATE TABLE jobs" in printed
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        statements = "\n".join(line for line in printed.splitlines() if not line.startswith("INFO"))
        connection.execute(statements.encode())
    assert objects(empty_database_url) >= TABLES


def test_every_constraint_and_index_is_named_by_convention(url: str) -> None:
    kinds = {"c": "ck", "u": "uq", "p": "pk", "f": "fk"}
    rows = ask(
        url,
        "SELECT contype::text, conrelid::regclass::text, conname FROM pg_constraint "
        "WHERE connamespace = 'public'::regnamespace AND contype IN ('c', 'u', 'p', 'f')",
    )
    constraints = [row for row in rows if row[1] != "alembic_version"]
    assert len(constraints) > 40
    for kind, table, name in constraints:
        assert re.fullmatch(rf"{kinds[kind]}_{table}(_[a-z0-9_]+)?", name), name
    indexes = ask(
        url,
        "SELECT c.relname, i.indrelid::regclass::text, i.indisunique FROM pg_index i "
        "JOIN pg_class c ON c.oid = i.indexrelid WHERE c.relnamespace = 'public'::regnamespace",
    )
    for name, table, unique in indexes:
        if table != "alembic_version":
            prefixes = ("pk", "uq") if unique else ("ix",)
            assert name.startswith(tuple(f"{prefix}_{table}" for prefix in prefixes)), name


def test_what_belongs_to_a_project_says_to_which(url: str) -> None:
    rows = ask(
        url,
        "SELECT t.table_name FROM information_schema.tables t WHERE t.table_schema = 'public' "
        "AND NOT EXISTS (SELECT 1 FROM information_schema.columns c WHERE c.table_schema = 'public' "
        "AND c.table_name = t.table_name AND c.column_name = 'project_id' AND c.is_nullable = 'NO')",
    )
    assert {name for (name,) in rows} == WITHOUT_PROJECT
    references = ask(
        url,
        "SELECT conrelid::regclass::text FROM pg_constraint WHERE contype = 'f' AND confrelid = 'projects'::regclass",
    )
    # Their job, or delivery, says it already, and each reference is checked with every row.
    known = {"attempts", "job_events", "job_labels", "job_prompts", "webhook_attempts"}
    assert {name for (name,) in references} == TABLES - WITHOUT_PROJECT - known


def test_storage_is_set_up(url: str) -> None:
    assert ask(url, "SELECT 1 FROM pg_extension WHERE extname = 'pg_trgm'") == [(1,)]
    options = dict(ask(url, "SELECT relname, reloptions FROM pg_class WHERE reloptions IS NOT NULL"))
    assert "fillfactor=80" in options["jobs"]
    assert "fillfactor=80" in options["attempts"]
    storage = ask(
        url,
        "SELECT attstorage::text FROM pg_attribute WHERE attname = 'data' "
        "AND attrelid IN ('artifact_bytes'::regclass, 'upload_chunks'::regclass)",
    )
    assert storage == [("e",), ("e",)], "pictures are compressed already"


def test_what_a_heartbeat_touches_is_in_no_index(url: str) -> None:
    definitions = [row[0] for row in ask(url, "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'")]
    for column in ("lease_until", "lease_owner", "deadline_at", "heartbeat_at"):
        assert not [line for line in definitions if column in line]
