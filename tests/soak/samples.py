"""What a server under load holds: memory, descriptors, tasks, rows. And whether that stays flat."""

import asyncio
import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import psutil
import sqlalchemy as sa

from support.deadlines import TEST_DEADLINE_S
from tollkeeper.database.engine import Database

TABLES = ("charges", "entries", "windows", "idempotency_keys", "sessions")
MAX_GROWTH_PERCENT = 5
MAX_GROWTH_MIB = 6
MAX_MORE_WHEN_IDLE = 6
"""Descriptors or tasks that an idle server may have more at the end than at the begin: kept connections."""
COLUMNS = "     s   calls    RSS MiB   fds  tasks  threads   " + "  ".join(f"{name:>16}" for name in TABLES)


class Sample(NamedTuple):
    """The state of a server process. `actions` are those of the load so far; `rows` are in the order of TABLES."""

    seconds: float
    actions: int
    rss_mib: float
    descriptors: int
    tasks: int
    threads: int
    rows: tuple[int, ...]

    def __str__(self) -> str:
        figures = f"{self.seconds:6.0f} {self.actions:7,} {self.rss_mib:10.1f} {self.descriptors:5} {self.tasks:6}"
        return f"{figures} {self.threads:8}   " + "  ".join(f"{count:16,}" for count in self.rows)


class Sampler:
    """Reads the state of the process with this id, which writes its counts to a file."""

    def __init__(self, pid: int, counts_file: Path, database_url: str) -> None:
        self._process = psutil.Process(pid)
        self._counts_file = counts_file
        self._database = Database(database_url)

    async def sample(self, seconds: float, actions: int) -> Sample:
        counts = await self._counts()
        return Sample(
            seconds,
            actions,
            self._process.memory_info().rss / 2**20,
            self._process.num_fds(),
            counts["tasks"],
            counts["threads"],
            await self._rows(),
        )

    async def open_charges(self) -> int:
        """How many calls have not ended in the ledger."""
        async with self._database.session() as session:
            connection = await session.connection()
            found = await connection.execute(sa.text("SELECT count(*) FROM charges WHERE closed_ms IS NULL"))
            return int(found.scalar_one())

    async def close(self) -> None:
        await self._database.close()

    async def _counts(self) -> dict[str, int]:
        self._counts_file.unlink(missing_ok=True)
        os.kill(self._process.pid, signal.SIGUSR2)
        async with asyncio.timeout(TEST_DEADLINE_S):
            while not self._counts_file.exists():
                await asyncio.sleep(0.01)
        counts: dict[str, int] = json.loads(self._counts_file.read_text())
        return counts

    async def _rows(self) -> tuple[int, ...]:
        async with self._database.session() as session:
            connection = await session.connection()
            counts = [await connection.execute(sa.text(f"SELECT count(*) FROM {name}")) for name in TABLES]
            return tuple(int(one.scalar_one()) for one in counts)


def growth_problems(samples: Sequence[Sample], idle_before: Sample, idle_after: Sample) -> list[str]:
    """What has grown that should not.

    Memory: the median of the last third of the samples may be above that of the middle third by MAX_GROWTH_PERCENT and
    MAX_GROWTH_MIB at most; the first third warms up. Descriptors and tasks: an idle server has as many as before.
    """
    third = len(samples) // 3
    problems = []
    if third:
        middle = median(one.rss_mib for one in samples[third : 2 * third])
        last = median(one.rss_mib for one in samples[2 * third :])
        if last > middle * (1 + MAX_GROWTH_PERCENT / 100) + MAX_GROWTH_MIB:
            problems.append(f"memory grows: {middle:.1f} MiB in the middle third, {last:.1f} MiB in the last")
    for name, before, after in (
        ("descriptors", idle_before.descriptors, idle_after.descriptors),
        ("tasks", idle_before.tasks, idle_after.tasks),
    ):
        if after > before + MAX_MORE_WHEN_IDLE:
            problems.append(f"{name} grow: {before} when idle before, {after} after")
    return problems
