"""What the processes hold on to: memory, threads, files, connections; from /proc, PostgreSQL and Redis. Linux only."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from redis import Redis

_MEBI = 1024.0
#: A process that lived shorter than this says nothing about growth.
LONG_ENOUGH = 60.0


@dataclass(frozen=True)
class Sample:
    """One look: seconds since the start, resident memory in MiB, threads, open files."""

    at: float
    rss: float
    threads: int
    files: int


@dataclass
class Life:
    """One process from its start to its end."""

    name: str
    pid: int
    samples: list[Sample] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return self.samples[-1].at - self.samples[0].at if self.samples else 0.0

    @property
    def second_half(self) -> list[Sample]:
        middle = self.samples[0].at + self.seconds / 2
        return [sample for sample in self.samples if sample.at >= middle]

    def slope(self) -> float:
        """MiB a minute over the second half of its life, by least squares."""
        half = self.second_half
        mean_at = sum(sample.at for sample in half) / len(half)
        mean_rss = sum(sample.rss for sample in half) / len(half)
        spread = sum((sample.at - mean_at) ** 2 for sample in half)
        together = sum((sample.at - mean_at) * (sample.rss - mean_rss) for sample in half)
        return 60 * together / spread if spread else 0.0

    def floor_rise(self, of: Callable[[Sample], float]) -> float:
        """How much the least value of the last third lies above that of the second: load comes and goes, a leak stays."""
        first, length = self.samples[0].at, self.seconds / 3
        second = [of(sample) for sample in self.samples if length <= sample.at - first < 2 * length]
        last = [of(sample) for sample in self.samples if sample.at - first >= 2 * length]
        return min(last) - min(second) if second and last else 0.0


class Watch:
    """Samples every process by its name; a new pid begins a new life."""

    def __init__(self, every: float) -> None:
        self._every = every
        self._began = time.monotonic()
        self._next = 0.0
        self._lives: dict[int, Life] = {}

    def tick(self, pids: dict[str, int]) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + self._every
        for name, pid in pids.items():
            sample = _sample(pid, now - self._began)
            if sample is not None:
                self._lives.setdefault(pid, Life(name, pid)).samples.append(sample)

    def longest(self) -> list[Life]:
        """Of each name the life that lasted longest."""
        by_name: dict[str, Life] = {}
        for life in self._lives.values():
            if life.seconds >= by_name.get(life.name, life).seconds:
                by_name[life.name] = life
        return [by_name[name] for name in sorted(by_name)]

    def lives(self) -> Counter[str]:
        """How many processes each name had."""
        return Counter(life.name for life in self._lives.values())

    @property
    def samples(self) -> dict[str, list[tuple[float, float, int, int]]]:
        return {
            f"{life.name} {life.pid}": [
                (round(each.at, 1), round(each.rss, 1), each.threads, each.files) for each in life.samples
            ]
            for life in self._lives.values()
        }


def _sample(pid: int, at: float) -> Sample | None:
    """None: it is gone, or still the launcher that becomes it."""
    folder = Path("/proc", str(pid))
    try:
        lines = (folder / "status").read_text(encoding="utf-8").splitlines()
        files = sum(1 for _ in (folder / "fd").iterdir())
    except OSError:
        return None
    fields = {name: value for name, _, value in (line.partition(":") for line in lines)}
    if "VmRSS" not in fields:
        return None
    rss = int(fields["VmRSS"].split()[0]) / _MEBI
    return Sample(at, rss, int(fields["Threads"]), files)


@dataclass(frozen=True)
class Connections:
    """Of PostgreSQL: by application, and how many sit in a transaction; of Redis: all."""

    by_application: dict[str, int]
    in_transaction: int
    of_redis: int = 0

    @property
    def total(self) -> int:
        return sum(self.by_application.values())


def connections(database_url: str, redis_url: str) -> Connections:
    """Everybody's but these."""
    query = """
        SELECT application_name, count(*), count(*) FILTER (WHERE state LIKE 'idle in transaction%')
        FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() GROUP BY 1
    """
    with psycopg.connect(database_url, autocommit=True, connect_timeout=5) as db:
        rows: Sequence[tuple[str, int, int]] = db.execute(query).fetchall()
    with Redis.from_url(redis_url, socket_timeout=5) as redis:
        of_redis = int(redis.info("clients")["connected_clients"]) - 1
    return Connections({name: count for name, count, _ in rows}, sum(row[2] for row in rows), of_redis)
