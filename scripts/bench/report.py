"""Formats the results: Markdown tables, explanations and JSON."""

import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import upstream
from bench.figures import Figure
from bench.measurement import IDLE_S, PEER_ROUND_S, Measurement, Plan
from bench.memory import Stage
from bench.processes import Cores
from bench.results import Results
from bench.targets import DISTANT, POSTGRES, STOCK
from bench.workload import Workload

BUSY_LOAD_AVERAGE = 0.5
"""Above this load average before the run, the work of other processes affects the numbers."""
NOTHING = "-"

_LOAD_HEADINGS = ("CPU µs", "× forwarder", "per second", "core busy", "first token: added p50 ms")
_LONE_HEADINGS = ("p50 ms", "added p50 ms", "added p99 ms", "CPU µs", "× its CPU under load")


def format_tables(results: Results) -> str:
    """Returns the three tables in Markdown. Figures are medians of the rounds, with the range in brackets."""
    load = [
        (
            row.workload if row.part is None else None,
            results.name(row.kind, row.part),
            _format(row.cpu_us, ",.0f"),
            _format(row.ratio, ".2f"),
            _format(row.per_second, ",.0f") if row.part is None else "",
            _format(row.busy, ".0%") if row.part is None else "",
            _format(row.first_token_added_ms, ".2f") if row.part is None else "",
        )
        for row in results.load
    ]
    lone = [
        (
            row.workload,
            results.name(row.kind),
            _format(row.p50_ms, ".2f"),
            _format(row.added_p50_ms, ".2f"),
            f"{row.added_p99_ms:.2f}" if row.added_p99_ms is not None else NOTHING,
            _format(row.cpu_us, ",.0f"),
            _format(row.ratio, ".2f"),
        )
        for row in results.lone
    ]
    memory = [
        (results.name(row.kind), *(row.stages[stage].format() if stage in row.stages else NOTHING for stage in Stage))
        for row in results.memory
    ]
    return "\n\n".join(
        (
            format_table(("under load", "server", *_LOAD_HEADINGS), _group(load), texts=2),
            format_table(("a lone client", "server", *_LONE_HEADINGS), _group(lone), texts=2),
            format_table(("RSS in MB", *Stage), memory, texts=1),
        )
    )


def _group(rows: Sequence[tuple[Any, ...]]) -> list[tuple[str, ...]]:
    """Returns the rows, with the description of a workload only in its first row."""
    grouped: list[tuple[str, ...]] = []
    previous = None
    for workload, *cells in rows:
        begins = workload not in (None, previous)
        grouped.append((workload.description if begins else "", *cells))
        previous = workload or previous
    return grouped


def format_table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, texts: int) -> str:
    """Returns a Markdown table. The first `texts` columns are aligned to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.ljust(width) if column < texts else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "| " + " | ".join(padded) + " |"

    rule = ("-" * (width + 1) + ("-" if column < texts else ":") for column, width in enumerate(widths))
    return "\n".join((line(headings), "|" + "|".join(rule) + "|", *map(line, rows)))


def _format(figure: Figure | None, spec: str) -> str:
    return figure.format(spec) if figure is not None else NOTHING


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
        f"Medians of {plan.rounds} rounds, each with all targets: first many connections, then a lone client. In"
        " brackets: the lowest and the highest round.",
        "CPU is the user and system time per call of the whole server process, and of what it defers by up to"
        f" {IDLE_S:g} s. A ratio is the median of the rounds' ratios.",
        "A lone client has one connection and sends a call when it has the response to the one before. Latencies are"
        " to the end of a call, and to the first byte of a stream. The upstream responds without a delay.",
        f"The upstream writes the {upstream.DELTAS} deltas of a paced stream {upstream.PAUSE_S * 1e3:.0f} ms apart, and"
        " those of a burst at once.",
        *(_explain_workload(measurements, plan) for measurements in tables),
        "Tollkeeper's calls include JWT, rate limits, user and tenant quota, two durable commits and the access log.",
        "RSS: one sample per run, of 10**6 bytes, without the database's. The tokenizer is needed for a response"
        " without usage.",
    ]
    kinds = {one.target.kind for measurements in tables for one in measurements}
    if kinds & {POSTGRES, STOCK, DISTANT}:
        lines.append("PostgreSQL runs on the server's core. The CPU time of all its processes is included.")
    if any(one.target.is_peer for measurements in tables for one in measurements):
        lines.append(
            f"A slower peer gets fewer calls, for about {PEER_ROUND_S:g} s per round. Peers have no database: they keep"
            " neither accounts nor quotas that survive the process."
        )
    return "\n".join(lines)


def _explain_workload(measurements: Sequence[Measurement], plan: Plan) -> str:
    """Returns the number of calls of one workload; for streams, also in how many pieces the client received one."""
    workload = measurements[0].workload
    counts = plan.counts[workload]
    text = (
        f"{workload.description}: {counts.loaded:,} per round under load, over {counts.connections} connections;"
        f" {counts.lone:,} per round of a lone client."
    )
    if not workload.is_stream:
        return text
    reads = ", ".join(f"{one.reads_per_call().median:.1f} ({one.target.kind})" for one in measurements)
    return f"{text} Reads per stream at the client: {reads}."


def as_json(results: Results, plan: Plan, calls: dict[str, dict[Workload, int]]) -> dict[str, Any]:
    """Returns the rows of the tables, and the calls of each target by workload, of all rounds and the warm-up."""
    return {"rounds": plan.rounds, "calls": calls, **asdict(results)}


def _processor_name() -> str:
    try:
        with Path("/proc/cpuinfo").open() as cpuinfo:
            return next(line.partition(":")[2].strip() for line in cpuinfo if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


def show_progress(step: str) -> None:
    """Print what is being done, beside the results."""
    print(f"… {step}", file=sys.stderr, flush=True)
