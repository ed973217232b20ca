"""A million jobs pass through tables that keep the last ones: they come to a size and stay there.

Takes minutes, so it runs when asked for: scripts/test -m slow tests/integration/shared/jobs/test_bloat.py
"""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path
from uuid import UUID

import pytest

from scripts.embedded import EmbeddedPostgres
from shared.db import Database
from tests import factories
from tests.conftest import SettingsFactory, migrate, scratch_database
from tests.integration.shared.jobs.conftest import Jobs, ending

#: Another number is for those who want to look sooner; less says nothing about a steady state.
PASSAGES = int(os.environ.get("BLOAT_PASSAGES", "1000000"))
BATCH, KEPT = 500, 20_000
#: As docker-compose.yml has it; a job a millisecond makes 60,000 dead rows a minute in each table.
_SETTINGS = {"autovacuum_naptime": "15s", "fsync": "off", "synchronous_commit": "off"}
_SIZES = """
    SELECT relname, pg_total_relation_size(relid) AS size, n_tup_upd AS updates, n_tup_hot_upd AS heap_only,
           autovacuum_count AS vacuums
    FROM pg_stat_user_tables WHERE relname IN ('jobs', 'attempts', 'job_events')
"""


@pytest.mark.slow
@pytest.mark.timeout(3000)
async def test_a_million_passages(
    request: pytest.FixtureRequest, make_settings: SettingsFactory, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if "slow" not in request.config.option.markexpr:
        pytest.skip("takes minutes; see the file's first lines")
    folder = tmp_path_factory.mktemp("bloat")
    with (
        EmbeddedPostgres(Path(folder), settings=_SETTINGS) as server,
        scratch_database(server.url, "bloat") as url,
    ):
        migrate(url)
        database = Database(make_settings(database_url=url), application="bloat")
        try:
            jobs = Jobs(database, await factories.project(database))
            sizes = await _pass(jobs)
        finally:
            await database.close()
    # How many dead rows there are at a moment depends on how fast jobs pass; without vacuuming the second half would
    # begin with five times what the first one did.
    first, second = sizes[: len(sizes) // 2], sizes[len(sizes) // 2 :]
    for table in sizes[0]:
        before, after = (min(moment[table] for moment in half) for half in (first, second))
        assert after <= 1.2 * before, f"{table}: {before:,} bytes in the first half, {after:,} in the second"


async def _pass(jobs: Jobs) -> list[dict[str, int]]:
    """The tables' sizes in bytes, indexes included, at ten moments."""
    kept: deque[list[UUID]] = deque()
    sizes: list[dict[str, int]] = []
    for number in range(1, PASSAGES // BATCH + 1):
        ids = await jobs.add_many(BATCH)
        await jobs.claim(*ids, noted=["text.generate"])
        await jobs.renew(*((job_id, 1) for job_id in ids))
        await jobs.finish(*(ending(job_id) for job_id in ids))
        kept.append(ids)
        if len(kept) * BATCH > KEPT:
            await jobs.run("DELETE FROM jobs WHERE id = ANY(CAST(:ids AS uuid[]))", ids=kept.popleft())
        if number % (PASSAGES // BATCH // 10) == 0:
            rows = await jobs.ask(_SIZES)
            sizes.append({row.relname: row.size for row in rows})
            shown = "  ".join(
                f"{row.relname} {row.size / 1e6:.0f} MB, {row.heap_only / max(row.updates, 1):.0%} of updates heap-only, "
                f"{row.vacuums} vacuums"
                for row in rows
            )
            print(f"{number * BATCH:,} passages: {shown}")
    return sizes
