"""A project that has been used for a month: a million finished jobs with their attempts and events, in about a minute.

Sizes are realistic (a prompt of 300 characters, an answer of 800), ids are in the order of time, and what is rare is rare:
one job in 1,000 has the tag ``rare``, one in 200 expired, nobody asked for ``gemini-pro`` with urgency.
"""

from __future__ import annotations

from uuid import UUID

import psycopg

_TEXTS = """
    CREATE TEMP TABLE texts AS
    WITH words AS MATERIALIZED (
        SELECT array_agg(substr(translate(md5(n::text), '0123456789', 'etaoinshrl'), 1, 2 + n % 8)) AS w
        FROM generate_series(1, 3000) AS n
    )
    SELECT n AS number, (SELECT string_agg(w[1 + (random() * random() * 2999)::int + 0 * g], ' ') FROM generate_series(1, 25 + 0 * n) AS g) AS t
    FROM words, generate_series(0, 4999) AS n
"""
_JOBS = """
    INSERT INTO jobs (id, project_id, kind, model, priority, queue, input, tags, metadata, max_attempts, timeout_seconds,
        state, version, attempt, created_at, scheduled_at, started_at, finished_at, result, error, provider, upstream_model,
        model_version, usage, cost_usd)
    SELECT (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7' || substr(h, 1, 3) || '8'
            || substr(h, 4, 15))::uuid,
        %(project)s, CASE WHEN n %% 5 = 0 THEN 'image.generate' ELSE 'text.generate' END,
        CASE WHEN n %% 5 = 0 THEN 'nano-banana' WHEN n %% 5 = 1 THEN 'gemini-pro' ELSE 'gemini-flash' END, priority,
        CASE WHEN n %% 5 = 0 THEN 'image.' ELSE 'text.' END || priority,
        jsonb_build_object('prompt', a.t || ' ' || b.t || ' number' || n),
        CASE WHEN n %% 1000 = 7 THEN ARRAY['env:prod', 'rare'] WHEN n %% 3 = 0 THEN ARRAY['env:prod'] ELSE '{}' END,
        CASE WHEN n %% 10 = 0 THEN jsonb_build_object('user', (n / 1000)::text) ELSE '{}' END, 5, 300,
        state, CASE state WHEN 'expired' THEN 2 ELSE 3 END, CASE state WHEN 'expired' THEN 0 ELSE 1 END, at, at,
        CASE WHEN state <> 'expired' THEN at + interval '1 second' END, at + interval '3 seconds',
        CASE state WHEN 'succeeded' THEN jsonb_build_object('text', a.t || c.t || b.t || c.t, 'finish_reason', 'stop') END,
        CASE state WHEN 'failed' THEN '{"code": "invalid_request", "message": "The provider refused."}'::jsonb END,
        'google', 'gemini-3.8-flash', 'gemini-3.8-flash-001',
        '{"input_tokens": 80, "output_tokens": 400, "thought_tokens": 0}', 0.00081
    FROM (
        SELECT n, md5(n::text) AS h, date_trunc('milliseconds', now()) - n * interval '2.5 seconds' AS at,
            CASE WHEN n %% 200 = 1 THEN 'expired' WHEN n %% 40 = 2 THEN 'failed' WHEN n %% 100 = 3 THEN 'cancelled'
                 ELSE 'succeeded' END AS state,
            CASE WHEN n %% 5 <> 1 AND n %% 20 = 4 THEN 'interactive' WHEN n %% 7 = 0 THEN 'batch' ELSE 'standard' END AS priority
        FROM generate_series(%(jobs)s, 1, -1) AS n
    ) AS s
    JOIN texts a ON a.number = n %% 5000 JOIN texts b ON b.number = n / 7 %% 5000 JOIN texts c ON c.number = n / 11 %% 5000
"""
_REST = (
    """
    INSERT INTO attempts (job_id, number, project_id, worker, claimed_at, sent_at, answered_at, finished_at, outcome,
        provider, model_version, upstream_request_id, usage, estimated_cost_usd, cost_usd)
    SELECT id, 1, project_id, 'host-1234', started_at, started_at, finished_at, finished_at,
        CASE WHEN state = 'succeeded' THEN state ELSE 'failed' END, provider, model_version, 'req-0123456789', usage,
        0.001, cost_usd
    FROM jobs WHERE attempt = 1
    """,
    """
    INSERT INTO job_events (project_id, job_id, version, type, data, created_at)
    SELECT project_id, id, v,
        CASE v WHEN 1 THEN 'job.queued' WHEN version THEN 'job.' || state ELSE 'job.running' END,
        jsonb_build_object('attempt', attempt), finished_at
    FROM jobs, generate_series(1, version) AS v
    """,
    """
    INSERT INTO job_labels (job_id, label, project_id, created_at)
    SELECT id, '#' || unnest(tags), project_id, created_at FROM jobs
    UNION ALL SELECT id, key || '=' || value, project_id, created_at FROM jobs, jsonb_each_text(metadata)
    """,
    """
    INSERT INTO job_prompts (job_id, project_id, created_at, prompt)
    SELECT id, project_id, created_at, left(input ->> 'prompt', 2000) FROM jobs ORDER BY created_at
    """,
)


def grow(url: str, project_id: UUID, *, jobs: int = 1_000_000) -> None:
    """Fills a migrated database, as its superuser; beat has copied prompts and counted endings up to now."""
    with psycopg.connect(url, autocommit=True) as db:
        # Nothing is checked row by row that the statements below get right for all rows at once.
        for setting in (
            "session_replication_role = replica",
            "maintenance_work_mem = '1GB'",
            "work_mem = '256MB'",
        ):
            db.execute(f"SET {setting}".encode())
        db.execute(_TEXTS.encode())
        db.execute("DROP INDEX ix_job_prompts_trigrams")
        db.execute(_JOBS.encode(), {"project": project_id, "jobs": jobs})
        for statement in _REST:
            db.execute(statement.encode())
        db.execute("CREATE INDEX ix_job_prompts_trigrams ON job_prompts USING gin (prompt gin_trgm_ops)")
        db.execute("UPDATE progress SET through = now() WHERE name = 'prompts'")
        db.execute("VACUUM (ANALYZE)")
