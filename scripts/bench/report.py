"""The table, and how to read it."""

import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.measuring import Plan, Result
from bench.processes import Cores
from bench.targets import DATABASE, FORWARDER, KINDS, POSTGRES, SERVER

NAMES = dict(zip(KINDS, ("bare forwarder", "Tollkeeper, SQLite", "Tollkeeper, PostgreSQL"), strict=True))
BUSY = 0.5
"""A load average before the run from which on others' work shows in the numbers."""

HEADINGS = (
    "",
    "CPU ms per 1,000 calls",
    "× forwarder",
    "calls/s",
    "core busy",
    "added p50 ms",
    "added p99 ms",
    "peak RSS MB",
)


def yardstick(results: Sequence[Result]) -> Result | None:
    """The bare forwarder's result, if it was measured."""
    return next((result for result in results if result.target.kind == FORWARDER), None)


def table(results: Sequence[Result]) -> str:
    """A Markdown table, medians over the rounds."""
    bare = yardstick(results)
    rows = [HEADINGS, ("---", *("---:" for _ in HEADINGS[1:]))]
    for result in results:
        rows.append(_row(result, bare))
        if DATABASE in result.rounds[0].cpu:
            rows += [_part("… of which the server", result, bare, SERVER)]
            rows += [_part("… of which the database", result, bare, DATABASE)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    return "\n".join(_line(row, widths) for row in rows)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    if row[0] == "---":
        return "|" + "|".join("-" * (width + 1) + ("-" if n == 0 else ":") for n, width in enumerate(widths)) + "|"
    cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
    return "| " + " | ".join(cells) + " |"


def _row(result: Result, bare: Result | None) -> tuple[str, ...]:
    compared = bare is not None and result is not bare
    return (
        NAMES[result.target.kind],
        f"{result.cpu_us():.0f}",
        f"{result.ratio(bare):.2f}" if bare is not None else "-",
        f"{result.calls_per_second:,.0f}",
        f"{result.busy:.0%}",
        f"{result.p50_ms - bare.p50_ms:.2f}" if bare is not None and compared else "-",
        f"{result.p99_ms - bare.p99_ms:.2f}" if bare is not None and compared else "-",
        f"{result.peak_rss_mb:.0f}",
    )


def _part(name: str, result: Result, bare: Result | None, part: str) -> tuple[str, ...]:
    ratio = f"{result.ratio(bare, part):.2f}" if bare is not None else "-"
    return (name, f"{result.cpu_us(part):.0f}", ratio, "", "", "", "", "")


def explanation(results: Sequence[Result], plan: Plan, cores: Cores, load_before: float) -> str:
    """The machine, and how to read the table."""
    kinds = {result.target.kind for result in results}
    where = (
        "each measured server alone on one core, load and mock upstream on another"
        if cores.pinned
        else "nothing pinned: there is one core, or no way to choose; read only the CPU columns"
    )
    lines = [
        f"Machine: {os.cpu_count()} cores, {_processor()}, {platform.system()}, Python {platform.python_version()};"
        f" {where}.",
        f"Medians of {plan.rounds} rounds, in which the targets take turns: {plan.calls:,} calls over"
        f" {plan.connections} connections, then {plan.latency_calls:,} calls of a lone client for the latencies.",
        "CPU is user and system time of the whole server process. 100 ms per 1,000 calls are 100 µs a call. The ratio"
        " is taken round by round.",
        "Added p50 and p99: a lone client's latency, minus the same through the forwarder"
        + "".join(f" ({one.p50_ms:.2f} and {one.p99_ms:.2f} ms)" for one in results if one.target.kind == FORWARDER)
        + ". The upstream answers at once.",
        "Tollkeeper runs as it is installed: JWT, rate limits, user and tenant quota, two durable commits a call,"
        " access log.",
    ]
    if load_before > BUSY:
        lines.insert(1, f"It was busy with something else too (load average {load_before:.1f}): trust only the ratios.")
    if POSTGRES in kinds:
        lines.append("PostgreSQL shares the server's core; the CPU of all its processes counts, its memory does not.")
    return "\n".join(lines)


def tokenizer_line(result: Result, loaded_mb: float) -> str:
    return f"{NAMES[result.target.kind]}: {loaded_mb:.0f} MB at most once the tokenizer is loaded."


def as_json(results: Sequence[Result], tokenizer_mb: Mapping[str, float]) -> dict[str, Any]:
    """The numbers behind the table, by target. CPU in µs per call, latencies in ms."""
    bare = yardstick(results)
    return {
        result.target.kind: {
            "calls": result.target.calls,
            "cpu_us": result.cpu_us(),
            "cpu_us_parts": {part: result.cpu_us(part) for part in result.rounds[0].cpu},
            "cpu_us_rounds": [one.cpu_us() for one in result.rounds],
            "ratio": result.ratio(bare) if bare is not None else None,
            "calls_per_second": result.calls_per_second,
            "busy": result.busy,
            "p50_ms": result.p50_ms,
            "p99_ms": result.p99_ms,
            "peak_rss_mb": result.peak_rss_mb,
            "tokenizer_rss_mb": tokenizer_mb.get(result.target.kind),
        }
        for result in results
    }


def _processor() -> str:
    try:
        with Path("/proc/cpuinfo").open() as described:
            return next(line.partition(":")[2].strip() for line in described if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()
