"""Formats the results: tables, explanations and JSON."""

import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import upstream
from bench.measurement import Measurement, Plan
from bench.processes import Cores
from bench.targets import DATABASE, FORWARDER, POSTGRES, SERVER, SQLITE, STOCK

NAMES = {
    FORWARDER: "bare forwarder",
    SQLITE: "Tollkeeper, SQLite",
    POSTGRES: "Tollkeeper, PostgreSQL",
    STOCK: "Tollkeeper, stock PostgreSQL",
}
BUSY_LOAD_AVERAGE = 0.5
"""Above this load average before the run, the work of other processes affects the numbers."""

_LATENCY_COLUMNS = ("added p50 ms", "added p99 ms")
_FIRST_TOKEN_COLUMNS = ("first token: added p50 ms", "… under load")


def find_baseline(results: Sequence[Measurement]) -> Measurement | None:
    """Returns the bare forwarder's result, if it was measured."""
    return next((result for result in results if result.target.kind == FORWARDER), None)


def format_table(results: Sequence[Measurement]) -> str:
    """Returns a Markdown table of one workload, with medians over the rounds."""
    bare = find_baseline(results)
    workload = results[0].workload
    headings = (
        workload.description,
        f"CPU ms per 1,000 {workload.noun}",
        "× forwarder",
        f"{workload.noun}/s",
        "core busy",
        *(_FIRST_TOKEN_COLUMNS if workload.is_stream else _LATENCY_COLUMNS),
        "peak RSS MB",
    )
    rows = [headings, ("---", *("---:" for _ in headings[1:]))]
    for result in results:
        rows.append(_row(result, bare))
        if DATABASE in result.loaded_rounds[0].cpu_s:
            rows += [_part_row("… of which the server", result, bare, SERVER)]
            rows += [_part_row("… of which the database", result, bare, DATABASE)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(headings))]
    return "\n".join(_format_line(row, widths) for row in rows)


def _format_line(row: Sequence[str], widths: Sequence[int]) -> str:
    if row[0] == "---":
        return (
            "|"
            + "|".join("-" * (width + 1) + ("-" if column == 0 else ":") for column, width in enumerate(widths))
            + "|"
        )
    cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
    return "| " + " | ".join(cells) + " |"


def _row(result: Measurement, bare: Measurement | None) -> tuple[str, ...]:
    return (
        NAMES[result.target.kind],
        f"{result.cpu_us():.0f}",
        f"{result.cpu_ratio(bare):.2f}" if bare is not None else "-",
        f"{result.calls_per_second:,.0f}",
        f"{result.core_utilization:.0%}",
        *(f"{value:.2f}" if value is not None else "-" for value in _added_ms(result, bare)),
        f"{result.peak_rss_mb:.0f}",
    )


def _added_ms(result: Measurement, bare: Measurement | None) -> tuple[float | None, float | None]:
    """Returns the two latency columns: the target's times minus the forwarder's."""
    if bare is None or result is bare:
        return None, None
    if result.workload.is_stream:
        return result.first_p50_ms - bare.first_p50_ms, result.loaded_first_p50_ms - bare.loaded_first_p50_ms
    return result.p50_ms - bare.p50_ms, result.p99_ms - bare.p99_ms


def _part_row(name: str, result: Measurement, bare: Measurement | None, part: str) -> tuple[str, ...]:
    ratio = f"{result.cpu_ratio(bare, part):.2f}" if bare is not None else "-"
    return (name, f"{result.cpu_us(part):.0f}", ratio, "", "", "", "", "")


def explain(tables: Sequence[Sequence[Measurement]], plan: Plan, cores: Cores, load_before: float) -> str:
    """Returns the description of the machine and of the tables."""
    where = (
        "each measured server runs alone on one core, the load and the mock upstream on another"
        if cores.pinned
        else "nothing is pinned: there is one core, or no CPU affinity; only the CPU columns are meaningful"
    )
    lines = [
        f"Machine: {os.cpu_count()} cores, {_processor_name()}, {platform.system()}, Python"
        f" {platform.python_version()}; {where}."
    ]
    if load_before > BUSY_LOAD_AVERAGE:
        lines.append(
            f"The machine was busy before the run (load average {load_before:.1f}): only the ratios are meaningful."
        )
    lines += [
        f"Medians of {plan.rounds} rounds, each with all targets: first many connections, then a single client.",
        "CPU is the user and system time of the whole server process. 100 ms per 1,000 calls are 100 µs a call. The"
        " ratio is the median of the rounds' ratios.",
        *(_explain_workload(results, plan) for results in tables),
        "Tollkeeper's calls include JWT, rate limits, user and tenant quota, two durable commits and the access log.",
    ]
    if any(result.target.kind in (POSTGRES, STOCK) for results in tables for result in results):
        lines.append(
            "PostgreSQL runs on the server's core. The CPU time of all its processes is included, its memory is not."
        )
    return "\n".join(lines)


def _explain_workload(results: Sequence[Measurement], plan: Plan) -> str:
    """Returns the number of calls of one workload, and the meaning of its latency columns."""
    workload, bare = results[0].workload, find_baseline(results)
    counts = plan.counts[workload]
    calls = (
        f"{workload.capitalize()}: {counts.loaded:,} per round under load, over {counts.connections} connections;"
        f" {counts.single:,} per round of a single client."
    )
    if not workload.is_stream:
        forwarder = f" ({bare.p50_ms:.2f} and {bare.p99_ms:.2f} ms)" if bare is not None else ""
        return (
            f"{calls} Added p50 and p99: the latency of a single client, minus the forwarder's{forwarder}. The upstream"
            " responds without a delay."
        )
    forwarder = f" ({bare.first_p50_ms:.2f}, under load {bare.loaded_first_p50_ms:.2f} ms)" if bare is not None else ""
    reads = ", ".join(f"{result.reads_per_call:.1f} ({result.target.kind})" for result in results)
    pause = f"{upstream.PAUSE_S * 1e3:.0f} ms"
    return (
        f"{calls} First token: the time to the first byte of the body, minus the forwarder's{forwarder}. The upstream"
        f" writes its {upstream.DELTAS} deltas one by one: the first without a delay, the others {pause} apart. A"
        f" stream mostly waits, so it takes many to keep a core busy. Reads per stream at the client: {reads}."
    )


def as_json(tables: Sequence[Sequence[Measurement]], tokenizer_mb: Mapping[str, float]) -> dict[str, Any]:
    """Returns the numbers of the tables by workload and target. CPU times are in µs per call, latencies in ms."""
    return {str(results[0].workload): _table_as_json(results, tokenizer_mb) for results in tables}


def _table_as_json(results: Sequence[Measurement], tokenizer_mb: Mapping[str, float]) -> dict[str, Any]:
    bare = find_baseline(results)
    return {
        result.target.kind: {
            "calls": result.calls,
            "cpu_us": result.cpu_us(),
            "cpu_us_parts": {part: result.cpu_us(part) for part in result.loaded_rounds[0].cpu_s},
            "cpu_us_rounds": [loaded.cpu_us() for loaded in result.loaded_rounds],
            "ratio": result.cpu_ratio(bare) if bare is not None else None,
            "calls_per_second": result.calls_per_second,
            "busy": result.core_utilization,
            "p50_ms": result.p50_ms,
            "p99_ms": result.p99_ms,
            "first_p50_ms": result.first_p50_ms,
            "loaded_first_p50_ms": result.loaded_first_p50_ms,
            "reads": result.reads_per_call,
            "peak_rss_mb": result.peak_rss_mb,
            "tokenizer_rss_mb": tokenizer_mb.get(result.target.kind),
        }
        for result in results
    }


def _processor_name() -> str:
    try:
        with Path("/proc/cpuinfo").open() as cpuinfo:
            return next(line.partition(":")[2].strip() for line in cpuinfo if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()
