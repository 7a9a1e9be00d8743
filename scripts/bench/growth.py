"""How the cost of a call and of a verification grow with the ledger.

Servers on ledgers of several sizes take turns, as in the other measurements. The callers are the users of one tenant.
"""

import asyncio
import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bench.bulk_ledger import LedgerSize, email_of, fill_postgres, fill_sqlite, tenant_of
from bench.figures import Figure
from bench.measurement import Measurement, Plan, measure
from bench.population import PASSWORD
from bench.processes import BenchError, clean_environment, peak_rss_mb
from bench.report import format_table, show_progress
from bench.targets import SQLITE, STOCK, TOLLKEEPER, Target, Testbed
from bench.workload import Workload
from tollkeeper.identity.passwords import Passwords
from tollkeeper.settings import Settings

SIZES = (LedgerSize(1_000, 0), LedgerSize(100_000, 1_000_000), LedgerSize(1_000_000, 10_000_000))
_SAMPLE_S = 0.05
"""How often the memory of a verification is read."""
_NAMES = {SQLITE: "SQLite", STOCK: "PostgreSQL"}


class _Verification(NamedTuple):
    """How long `tollkeeper ledger verify` took, the CPU time of its process, and the most memory that it used."""

    duration_s: float
    cpu_s: float
    peak_mb: float


@dataclass(frozen=True, slots=True)
class _Grown:
    """A server on a ledger of one size."""

    size: LedgerSize
    target: Target


def parse_size(text: str) -> LedgerSize:
    """Returns the size for `USERS:ENTRIES`. Raises ValueError."""
    users, _, entries = text.partition(":")
    size = LedgerSize(int(users), int(entries or 0))
    if size.users < 1 or size.entries < 0:
        raise ValueError
    return size


async def measure_growth(testbed: Testbed, kinds: Sequence[str], sizes: Sequence[LedgerSize], plan: Plan) -> str:
    """Returns the table. Raises BenchError if a call fails, or if a ledger is wrong in the end."""
    grown = []
    for kind in kinds:
        for size in sizes:
            show_progress(f"filling {_NAMES[kind]} with {size}")
            grown.append(_Grown(size, await _start(testbed, kind, size)))
    show_progress("measuring")
    measurements = await measure([one.target for one in grown], Workload.CALLS, plan)
    rows = []
    for number, (one, measurement) in enumerate(zip(grown, measurements, strict=True)):
        show_progress(f"verifying {_NAMES[one.target.kind]} with {one.size}")
        verification = await asyncio.to_thread(_verify, one.target)
        rows.append(_row(one, measurement, measurements[number - sizes.index(one.size)], verification))
    headings = ("database", "users", "entries", "CPU µs", "× the first", "lone p50 ms", "lone CPU µs")
    return format_table((*headings, "verify s", "its CPU s", "its RSS in MB"), rows, texts=1)


async def _start(testbed: Testbed, kind: str, size: LedgerSize) -> Target:
    async def fill(settings: Settings) -> list[tuple[str, str]]:
        passwords = Passwords(settings.bcrypt_rounds)
        password_hash = await passwords.hash(PASSWORD)
        passwords.close()
        if settings.sqlite_path is not None:
            await asyncio.to_thread(fill_sqlite, str(settings.sqlite_path), size, password_hash)
        else:
            await fill_postgres(settings.database_url, size, password_hash)
        return [(f"tenant-{tenant_of(user)}", email_of(user)) for user in size.users_of(1)]

    return await testbed.start_target(kind, fill=fill, name=f"{kind}-{size.users}-{size.entries}")


def _verify(target: Target) -> _Verification:
    """Run `tollkeeper ledger verify` beside the running server, on the load's core. Raises BenchError."""
    started = time.monotonic()
    running = subprocess.Popen(
        [TOLLKEEPER, "ledger", "verify"],
        cwd=target.child.folder,
        env=clean_environment() | target.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    peak_mb, ended, status = 0.0, 0, 0
    while not ended:
        time.sleep(_SAMPLE_S)
        peak_mb = max(peak_mb, peak_rss_mb(running.pid))
        ended, status, usage = os.wait4(running.pid, os.WNOHANG)
    running.returncode = os.waitstatus_to_exitcode(status)
    if running.returncode != 0:
        raise BenchError(f"{target.kind}: `tollkeeper ledger verify` ended with {running.returncode}.")
    return _Verification(time.monotonic() - started, usage.ru_utime + usage.ru_stime, peak_mb)


def _row(grown: _Grown, measured: Measurement, first: Measurement, verification: _Verification) -> Sequence[str]:
    ratio = measured.cpu_ratio(first)
    figures: tuple[tuple[Figure, str], ...] = (
        (measured.cpu_us(), ",.0f"),
        (ratio, ".2f"),
        (measured.p50_ms(), ".2f"),
        (measured.lone_cpu_us(), ",.0f"),
    )
    return (
        _NAMES[grown.target.kind],
        f"{grown.size.users:,}",
        f"{grown.size.entries:,}",
        *(figure.format(spec) for figure, spec in figures),
        f"{verification.duration_s:,.1f}",
        f"{verification.cpu_s:,.1f}",
        f"{verification.peak_mb:,.0f}",
    )
