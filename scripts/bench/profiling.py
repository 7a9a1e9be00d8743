"""Where the SQLite server's time goes: CPU by thread without a profiler, then time by function under cProfile."""

import asyncio
import pstats
import signal
import sys
import time
from pathlib import Path
from typing import Any

from bench.measuring import Plan, loaded, run
from bench.processes import SCRIPTS, BenchError, main_thread_cpu_seconds
from bench.targets import SQLITE, Lab
from bench.work import Work

MAX_FUNCTIONS = 40
WRITE_S = 30.0
PROFILED = SCRIPTS / "bench" / "profiled.py"


async def profile(lab: Lab, work: Work, plan: Plan, folder: Path) -> str:
    """One turn measured, one turn profiled, as text."""
    amount = plan.amounts[work]
    file = folder / "profile"
    target = await lab.start(SQLITE, (sys.executable, str(PROFILED), str(file)))
    await run(target, work, connections=amount.connections, calls=amount.warm_up)
    main_before = main_thread_cpu_seconds(target.child.pid)
    plain = await loaded(target, work, plan)
    main_us = (main_thread_cpu_seconds(target.child.pid) - main_before) / plain.calls * 1e6
    target.child.process.send_signal(signal.SIGUSR1)
    profiled = await loaded(target, work, plan)
    target.child.process.send_signal(signal.SIGUSR2)
    stats = await _read(file)
    return "\n".join(
        (
            f"{amount.loaded:,} × {work.question}, over {amount.connections} connections, Tollkeeper on SQLite.",
            f"Without the profiler: {plain.cpu_us():.0f} µs of CPU each, of which the main thread {main_us:.0f}, the"
            f" ledger's {plain.cpu_us() - main_us:.0f}.",
            f"With it: {profiled.cpu_us():.0f} µs. Read the shares: the profiler makes small functions look large, and"
            " what the main thread waits for the ledger's (the GIL) falls on whatever it was doing.",
            "",
            *_functions(stats, amount.loaded),
        )
    )


async def _read(file: Path) -> dict[Any, Any]:
    """The profile, once it has been written."""
    give_up_at = time.monotonic() + WRITE_S
    while not file.exists():
        if time.monotonic() > give_up_at:
            raise BenchError("The profile was not written.")
        await asyncio.sleep(0.05)
    found: dict[Any, Any] = pstats.Stats(str(file)).stats  # type: ignore[attr-defined]
    return found


def _functions(stats: dict[Any, Any], calls: int) -> list[str]:
    """The functions that take the most time of their own."""
    total = sum(own for _, _, own, _, _ in stats.values())
    lines = [f"{'own µs':>7} {'share':>6} {'with callees':>13} {'times':>9}  function"]
    by_own_time = sorted(stats.items(), key=lambda item: item[1][2], reverse=True)
    for (path, line, name), (_, count, own, cumulative, _) in by_own_time[:MAX_FUNCTIONS]:
        lines.append(
            f"{own / calls * 1e6:7.1f} {own / total:6.1%} {cumulative / calls * 1e6:13.1f} {count / calls:9.2f}"
            f"  {_place(path, line)}{name}"
        )
    return lines


def _place(path: str, line: int) -> str:
    """Where a function is, from its package on; nothing for what is built in."""
    if path == "~":
        return ""
    parts = Path(path).parts
    for root in ("site-packages", "src"):
        if root in parts:
            return f"{'/'.join(parts[parts.index(root) + 1 :])}:{line} "
    return f"{'/'.join(parts[-2:])}:{line} "
