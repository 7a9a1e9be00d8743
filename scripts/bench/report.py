"""The tables, and how to read them."""

import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import upstream
from bench.measuring import Plan, Result
from bench.processes import Cores
from bench.targets import DATABASE, FORWARDER, KINDS, POSTGRES, SERVER

NAMES = dict(zip(KINDS, ("bare forwarder", "Tollkeeper, SQLite", "Tollkeeper, PostgreSQL"), strict=True))
BUSY = 0.5
"""A load average before the run from which on others' work shows in the numbers."""

_LATENCIES = ("added p50 ms", "added p99 ms")
_BEGINNINGS = ("first token: added p50 ms", "… under load")


def yardstick(results: Sequence[Result]) -> Result | None:
    """The bare forwarder's result, if it was measured."""
    return next((result for result in results if result.target.kind == FORWARDER), None)


def table(results: Sequence[Result]) -> str:
    """A Markdown table of one kind of work, medians over the rounds."""
    bare = yardstick(results)
    work = results[0].work
    headings = (
        work.question,
        f"CPU ms per 1,000 {work.noun}",
        "× forwarder",
        f"{work.noun}/s",
        "core busy",
        *(_BEGINNINGS if work.streamed else _LATENCIES),
        "peak RSS MB",
    )
    rows = [headings, ("---", *("---:" for _ in headings[1:]))]
    for result in results:
        rows.append(_row(result, bare))
        if DATABASE in result.rounds[0].cpu:
            rows += [_part("… of which the server", result, bare, SERVER)]
            rows += [_part("… of which the database", result, bare, DATABASE)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(headings))]
    return "\n".join(_line(row, widths) for row in rows)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    if row[0] == "---":
        return "|" + "|".join("-" * (width + 1) + ("-" if n == 0 else ":") for n, width in enumerate(widths)) + "|"
    cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
    return "| " + " | ".join(cells) + " |"


def _row(result: Result, bare: Result | None) -> tuple[str, ...]:
    return (
        NAMES[result.target.kind],
        f"{result.cpu_us():.0f}",
        f"{result.ratio(bare):.2f}" if bare is not None else "-",
        f"{result.calls_per_second:,.0f}",
        f"{result.busy:.0%}",
        *(f"{value:.2f}" if value is not None else "-" for value in _added(result, bare)),
        f"{result.peak_rss_mb:.0f}",
    )


def _added(result: Result, bare: Result | None) -> tuple[float | None, float | None]:
    """What the table says of the time that a caller waits, over the forwarder's."""
    if bare is None or result is bare:
        return None, None
    if result.work.streamed:
        return result.first_p50_ms - bare.first_p50_ms, result.loaded_first_p50_ms - bare.loaded_first_p50_ms
    return result.p50_ms - bare.p50_ms, result.p99_ms - bare.p99_ms


def _part(name: str, result: Result, bare: Result | None, part: str) -> tuple[str, ...]:
    ratio = f"{result.ratio(bare, part):.2f}" if bare is not None else "-"
    return (name, f"{result.cpu_us(part):.0f}", ratio, "", "", "", "", "")


def explanation(tables: Sequence[Sequence[Result]], plan: Plan, cores: Cores, load_before: float) -> str:
    """The machine, and how to read the tables."""
    where = (
        "each measured server alone on one core, load and mock upstream on another"
        if cores.pinned
        else "nothing pinned: there is one core, or no way to choose; read only the CPU columns"
    )
    lines = [
        f"Machine: {os.cpu_count()} cores, {_processor()}, {platform.system()}, Python {platform.python_version()};"
        f" {where}."
    ]
    if load_before > BUSY:
        lines.append(f"It was busy with something else too (load average {load_before:.1f}): trust only the ratios.")
    lines += [
        f"Medians of {plan.rounds} rounds, in which the targets take turns: many connections, then a lone client.",
        "CPU is user and system time of the whole server process. 100 ms per 1,000 calls are 100 µs a call. The ratio"
        " is taken round by round.",
        *(_of_work(results, plan) for results in tables),
        "Tollkeeper runs as it is installed: JWT, rate limits, user and tenant quota, two durable commits a call,"
        " access log.",
    ]
    if any(result.target.kind == POSTGRES for results in tables for result in results):
        lines.append("PostgreSQL shares the server's core; the CPU of all its processes counts, its memory does not.")
    return "\n".join(lines)


def _of_work(results: Sequence[Result], plan: Plan) -> str:
    """How much of it there was, and what its latencies are."""
    work, bare = results[0].work, yardstick(results)
    amount = plan.amounts[work]
    turns = (
        f"{work.capitalize()}: {amount.loaded:,} of a loaded turn, {amount.connections} at once;"
        f" {amount.alone:,} of a lone client's."
    )
    if not work.streamed:
        through = f" ({bare.p50_ms:.2f} and {bare.p99_ms:.2f} ms)" if bare is not None else ""
        return (
            f"{turns} Added p50 and p99: a lone client's latency, minus the same through the forwarder{through}. The"
            " upstream answers at once."
        )
    through = f" ({bare.first_p50_ms:.2f}, under load {bare.loaded_first_p50_ms:.2f} ms)" if bare is not None else ""
    reads = ", ".join(f"{result.arrivals:.1f} ({result.target.kind})" for result in results)
    pace = f"{upstream.PAUSE_S * 1e3:.0f} ms"
    return (
        f"{turns} First token: until the first byte of the answer, minus the same through the forwarder{through}. The"
        f" upstream writes its {upstream.DELTAS} deltas one by one, the first at once, then {pace} apart; so"
        f" streams mostly wait, and it takes more of them to keep a core busy. Reads per stream at the client: {reads}."
    )


def as_json(tables: Sequence[Sequence[Result]], tokenizer_mb: Mapping[str, float]) -> dict[str, Any]:
    """The numbers behind the tables, by work and target. CPU in µs per call, times in ms."""
    return {str(results[0].work): _table_as_json(results, tokenizer_mb) for results in tables}


def _table_as_json(results: Sequence[Result], tokenizer_mb: Mapping[str, float]) -> dict[str, Any]:
    bare = yardstick(results)
    return {
        result.target.kind: {
            "calls": result.calls,
            "cpu_us": result.cpu_us(),
            "cpu_us_parts": {part: result.cpu_us(part) for part in result.rounds[0].cpu},
            "cpu_us_rounds": [one.cpu_us() for one in result.rounds],
            "ratio": result.ratio(bare) if bare is not None else None,
            "calls_per_second": result.calls_per_second,
            "busy": result.busy,
            "p50_ms": result.p50_ms,
            "p99_ms": result.p99_ms,
            "first_p50_ms": result.first_p50_ms,
            "loaded_first_p50_ms": result.loaded_first_p50_ms,
            "reads": result.arrivals,
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
