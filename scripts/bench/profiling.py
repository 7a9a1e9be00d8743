"""Profiles the SQLite server: CPU time by thread without a profiler, then time by function under cProfile."""

import asyncio
import pstats
import signal
import sys
import time
from pathlib import Path
from typing import Any

from bench.measurement import Plan, run_calls, run_round
from bench.processes import SCRIPTS, BenchError, main_thread_cpu_seconds
from bench.targets import SQLITE, Testbed
from bench.workload import Workload

MAX_FUNCTIONS = 40
WRITE_TIMEOUT_S = 30.0
PROFILED_SERVER = SCRIPTS / "bench" / "profiled_server.py"


async def profile(testbed: Testbed, workload: Workload, plan: Plan, folder: Path) -> str:
    """Run one round without and one with the profiler. Returns the report as text."""
    counts = plan.counts[workload]
    file = folder / "profile"
    target = await testbed.start_target(SQLITE, (sys.executable, str(PROFILED_SERVER), str(file)))
    await run_calls(target, workload, connections=counts.connections, calls=counts.warm_up)
    main_before = main_thread_cpu_seconds(target.child.pid)
    unprofiled = await run_round(target, workload, counts.loaded, connections=counts.connections)
    main_us = (main_thread_cpu_seconds(target.child.pid) - main_before) / unprofiled.calls * 1e6
    target.child.process.send_signal(signal.SIGUSR1)
    profiled = await run_round(target, workload, counts.loaded, connections=counts.connections)
    target.child.process.send_signal(signal.SIGUSR2)
    stats = await _read_profile(file)
    return "\n".join(
        (
            f"{counts.loaded:,} × {workload.description}, over {counts.connections} connections, Tollkeeper on SQLite.",
            f"Without the profiler: {unprofiled.cpu_us():.0f} µs of CPU each, the main thread {main_us:.0f} and the"
            f" ledger's {unprofiled.cpu_us() - main_us:.0f}.",
            f"With it: {profiled.cpu_us():.0f} µs. Compare only the shares: the profiler inflates small functions, and"
            " the main thread's waits for the GIL count for the function that it was running.",
            "",
            *_format_functions(stats, counts.loaded),
        )
    )


async def _read_profile(file: Path) -> dict[Any, Any]:
    """Returns the profile when it has been written. Raises BenchError after WRITE_TIMEOUT_S."""
    deadline = time.monotonic() + WRITE_TIMEOUT_S
    while not file.exists():
        if time.monotonic() > deadline:
            raise BenchError("The profile was not written.")
        await asyncio.sleep(0.05)
    stats: dict[Any, Any] = pstats.Stats(str(file)).stats  # type: ignore[attr-defined]
    return stats


def _format_functions(stats: dict[Any, Any], calls: int) -> list[str]:
    """Returns a table of the functions with the most time of their own."""
    total = sum(own for _, _, own, _, _ in stats.values())
    lines = [f"{'own µs':>7} {'share':>6} {'with callees':>13} {'times':>9}  function"]
    by_own_time = sorted(stats.items(), key=lambda item: item[1][2], reverse=True)
    for (path, line, name), (_, count, own, cumulative, _) in by_own_time[:MAX_FUNCTIONS]:
        lines.append(
            f"{own / calls * 1e6:7.1f} {own / total:6.1%} {cumulative / calls * 1e6:13.1f} {count / calls:9.2f}"
            f"  {_format_location(path, line)}{name}"
        )
    return lines


def _format_location(path: str, line: int) -> str:
    """Returns a function's file and line, from its package on; an empty string for a built-in function."""
    if path == "~":
        return ""
    parts = Path(path).parts
    for root in ("site-packages", "src"):
        if root in parts:
            return f"{'/'.join(parts[parts.index(root) + 1 :])}:{line} "
    return f"{'/'.join(parts[-2:])}:{line} "
