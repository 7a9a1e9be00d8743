"""How long reports of usage take: `python -m bench.usage_reports`, in the folder `scripts`.

A month of one tenant: 10^7 charges of 10^3 users, 20 models and 50 values of a tag, evenly spread. The rows of the
roll-ups are generated in the database, one of `usage_buckets` for each charge, which is the most there can be.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from sqlalchemy import text

from bench.databases import find_stock_postgres, stock_postgres
from bench.processes import Cores
from tollkeeper.database.engine import Database
from tollkeeper.database.migrations import migrate
from tollkeeper.quota.time_sorted_ids import USAGE_BUCKET_MS
from tollkeeper.tenant_scope import TenantScope
from tollkeeper.usage.buckets import DAY_MS, MEASURES
from tollkeeper.usage.periods import ReportPeriod
from tollkeeper.usage.reports import GroupBy, OfCalls, read_report

MONTH_MS, DAYS = 1_793_491_200_000, 30
"""November 2026 in UTC."""
BUCKETS = DAYS * DAY_MS // USAGE_BUCKET_MS
USERS, MODELS, TAG_VALUES, GROUPS, SURFACES = 1_000, 20, 50, 10, 6
ROUNDS = 7
_SUMS = ", ".join(MEASURES)
_ONES = ", ".join("1" for _ in MEASURES)
_NUMBERS = "WITH RECURSIVE numbers(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < {count})"
_DAYS = (
    f"INSERT INTO usage_days (tenant_id, dimension, day_ms, value, provider, group_id, {_SUMS})"
    f" {_NUMBERS.format(count='{count}')} SELECT 1, '{{dimension}}', {{day_ms}}, {{value}}, {{provider}}, {{group}},"
    f" {_ONES} FROM numbers"
)


def day_statements() -> list[str]:
    """Fill `usage_days`."""
    statements = []
    for day in range(DAYS):
        day_ms = MONTH_MS + day * DAY_MS
        for dimension, count, value, provider, group in (
            ("time", 96, f"CAST({day_ms} + n * {USAGE_BUCKET_MS} AS varchar)", "''", "0"),
            ("model", MODELS * GROUPS, f"'model-' || (n / {GROUPS})", "'provider'", f"n % {GROUPS}"),
            ("user", USERS, "CAST(n + 1 AS varchar)", "''", "0"),
            ("key", USERS, "'key_' || n", "''", "0"),
            ("surface", SURFACES, "'surface-' || n", "''", "0"),
            ("tag", TAG_VALUES, "'run=' || n", "''", "0"),
        ):
            values = {"dimension": dimension, "count": count, "value": value, "provider": provider, "group": group}
            statements.append(_DAYS.format(day_ms=day_ms, **values))
    return statements


def bucket_statement(bucket: int, rows: int) -> str:
    """Fill one bucket of `usage_buckets`."""
    return (
        "INSERT INTO usage_buckets (tenant_id, bucket_ms, number, user_id, key_id, group_id, provider, model, surface,"
        f" tags, {_SUMS}) {_NUMBERS.format(count=rows)} SELECT 1, {MONTH_MS + bucket * USAGE_BUCKET_MS}, n + 1,"
        f" (n * 7919 + {bucket}) % {USERS} + 1, 'key_' || ((n * 7919 + {bucket}) % {USERS}), n % {GROUPS}, 'provider',"
        f" 'model-' || ((n + {bucket}) % {MODELS}), 'surface-' || (n % {SURFACES}),"
        f" '{{\"run\": \"' || ((n * 13 + {bucket}) % {TAG_VALUES}) || '\"}}', {_ONES} FROM numbers"
    )


async def fill(database: Database, charges: int) -> None:
    async with database.session() as session:
        connection = await session.connection()
        await connection.execute(text("INSERT INTO tenants (id, name, created_at) VALUES (1, 'acme', '2026-01-01')"))
        for statement in day_statements():
            await connection.exec_driver_sql(statement)
    for first in range(0, BUCKETS, 48):
        async with database.session() as session:
            connection = await session.connection()
            for bucket in range(first, min(first + 48, BUCKETS)):
                await connection.exec_driver_sql(bucket_statement(bucket, charges // BUCKETS))


async def measure(url: str, charges: int) -> None:
    started = time.perf_counter()
    await asyncio.to_thread(migrate, url)
    database = Database(url)
    try:
        await fill(database, charges)
        async with database.session() as session:
            await (await session.connection()).exec_driver_sql("ANALYZE")
        print(f"{charges:,} charges in {time.perf_counter() - started:.0f} s")
        for zone, shift_ms in (("UTC", 0), ("Asia/Kathmandu", -20_700_000)):
            period = ReportPeriod(MONTH_MS + shift_ms, MONTH_MS + DAYS * DAY_MS + shift_ms, zone)
            for user_id in (None, 17):
                for group_by in GroupBy:
                    await _measure_report(database, period, group_by, user_id)
    finally:
        await database.close()


async def _measure_report(database: Database, period: ReportPeriod, group_by: GroupBy, user_id: int | None) -> None:
    times_ms, lines = list[float](), 0
    for _ in range(ROUNDS):
        started = time.perf_counter()
        async with database.session() as session:
            report = await read_report(session, TenantScope(1), period, group_by, OfCalls(user_id))
        times_ms.append((time.perf_counter() - started) * 1e3)
        lines = len(report.lines)
    whose = "one user" if user_id is not None else "the tenant"
    middle, worst = statistics.median(times_ms), max(times_ms)
    print(f"| {period.time_zone} | {whose} | {group_by} | {lines:,} | {middle:.0f} | {worst:.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=["sqlite", "postgres"])
    parser.add_argument("--charges", type=int, default=10_000_000)
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tollkeeper-usage-")))
        if options.only in (None, "sqlite"):
            print("SQLite")
            asyncio.run(measure(f"sqlite:///{folder}/usage.db", options.charges))
        if options.only in (None, "postgres") and find_stock_postgres() is not None:
            print("PostgreSQL")
            url, _ = stack.enter_context(stock_postgres(folder / "postgres", Cores(pins=False)))
            asyncio.run(measure(url, options.charges))


if __name__ == "__main__":
    main()
