"""The command of the benchmark: the order of the measurements, and the cleanup."""

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

import uvloop

from bench import profiling, report
from bench.databases import find_stock_postgres, stock_postgres_version
from bench.further_quotas import measure_further_quotas
from bench.growth import measure_growth
from bench.hits import measure_hits
from bench.large_bodies import measure_large_bodies
from bench.measurement import Measurement, Plan, measure, run_calls
from bench.memory import MemoryUse, Stage, load_tokenizer, memory_use
from bench.moderation import measure_moderation
from bench.options import make_plan, parse_options
from bench.peers import Peer, find_peers, start_peer
from bench.processes import BenchError, Cores
from bench.results import make_results, name_targets
from bench.scaling import measure_scaling
from bench.seeing import measure_seeing
from bench.targets import DISTANT, FORWARDER, POSTGRES, SQLITE, STOCK, Target, Testbed
from bench.verification import verify_run
from bench.workload import Workload

EXIT_FAILED, EXIT_INTERRUPTED = 1, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, 1 after a failed measurement or an inexact charge, 130 after Ctrl-C."""
    options = parse_options(arguments)
    plan = make_plan(options)
    try:
        with _interruptible(), ExitStack() as cleanup:
            folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="tollkeeper-bench-")))
            cleanup.callback(_ignore_interrupts)
            if options.profile:
                coroutine = _profile(options.profile, plan, folder, cleanup)
            elif options.growth:
                coroutine = _growth(options, plan, folder, cleanup)
            elif options.in_turns or options.workers:
                coroutine = _in_turns(options, plan, folder, cleanup)
            else:
                coroutine = _bench(options, plan, folder, cleanup)
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(coroutine)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


async def _bench(options: argparse.Namespace, plan: Plan, folder: Path, cleanup: ExitStack) -> None:
    started, load_before = datetime.now(UTC), os.getloadavg()[0]
    cores = Cores()
    cores.pin(0, cores.driver)
    testbed = Testbed(folder, cores, cleanup, options.database_delay_ms)
    targets = []
    for kind in options.only or _available_kinds(options.database_delay_ms):
        report.show_progress(f"starting {kind}")
        targets.append(await testbed.start_target(kind))
    peers, missing = await _start_peers(testbed, options.peers)
    targets += peers
    served_before = await testbed.served_by_upstream()
    tables, memory = await _measure_all(targets, options.what, plan)
    report.show_progress("checking")
    checks = await verify_run(testbed, targets, served_before, started)
    results = make_results(tables, memory, name_targets(options.database_delay_ms))
    print(report.format_tables(results), end="\n\n")
    print(report.explain(tables, plan, cores, load_before))
    notes = [target.note for target in targets if target.note]
    print("\n".join((*notes, *_versions(targets), *missing, *checks)))
    if options.json is not None:
        calls = {target.kind: dict(target.completed) for target in targets}
        options.json.write_text(json.dumps(report.as_json(results, plan, calls), indent=2) + "\n")
    if options.charts is not None:
        from bench.charts import draw_charts  # needs matplotlib, which takes a second to import

        draw_charts(results, options.charts)


async def _measure_all(
    targets: Sequence[Target], workloads: Sequence[Workload], plan: Plan
) -> tuple[list[list[Measurement]], dict[str, dict[Stage, MemoryUse]]]:
    """Returns the measurements by workload, and the memory of each target by stage."""
    memory = {target.kind: {Stage.STARTED: memory_use(target)} for target in targets if not target.is_lone_only}
    tables = []
    for workload in workloads:
        report.show_progress(
            f"measuring {workload}: {', '.join(target.kind for target in targets if target.has(workload))}"
        )
        tables.append(await measure(targets, workload, plan))
        stage = Stage.STREAMED if workload.is_stream else Stage.CALLED
        for target in targets:
            if target.kind in memory and target.has(workload):
                memory[target.kind][stage] = memory_use(target)
    for target in targets:
        if target.is_metered and target.kind in memory:
            memory[target.kind][Stage.TOKENIZER] = await load_tokenizer(target)
    return tables, memory


async def _start_peers(testbed: Testbed, environments: Sequence[Path] | None) -> tuple[list[Target], list[str]]:
    """Returns the peers that respond, and a sentence for each other peer. None for no peers at all."""
    if environments is None:
        return [], []
    found, missing = find_peers(environments)
    started = []
    for peer in found:
        report.show_progress(f"starting {peer.kind} {peer.version}")
        try:
            started.append(await _start_responding_peer(testbed, peer))
        except BenchError as error:
            missing.append(f"{peer.kind} {peer.version} is not measured: {error}")
    for sentence in missing:
        print(f"bench: {sentence}", file=sys.stderr)
    return started, missing


async def _start_responding_peer(testbed: Testbed, peer: Peer) -> Target:
    target = await start_peer(testbed, peer)
    target.version = f"{peer.kind} {peer.version}"
    for workload in (Workload.CHAT, Workload.STREAMS):
        await run_calls(target, workload, connections=1, calls=1)
    target.completed.clear()
    return target


def _versions(targets: Sequence[Target]) -> list[str]:
    """Returns one line with the versions of what is measured beside Tollkeeper."""
    versions = [target.version for target in targets if target.version]
    if any(target.kind in (STOCK, DISTANT) for target in targets):
        versions.insert(0, stock_postgres_version())
    return [f"Versions: {', '.join(versions)}."] if versions else []


async def _profile(workload: Workload, plan: Plan, folder: Path, cleanup: ExitStack) -> None:
    cores = Cores()
    cores.pin(0, cores.driver)
    print(await profiling.profile(Testbed(folder, cores, cleanup), workload, plan, folder))


async def _growth(options: argparse.Namespace, plan: Plan, folder: Path, cleanup: ExitStack) -> None:
    cores = Cores()
    cores.pin(0, cores.driver)
    kinds = options.only or (SQLITE, STOCK) if find_stock_postgres() is not None else (SQLITE,)
    print(await measure_growth(Testbed(folder, cores, cleanup), kinds, options.growth, plan))


async def _in_turns(options: argparse.Namespace, plan: Plan, folder: Path, cleanup: ExitStack) -> None:
    started = datetime.now(UTC)
    cores = Cores(pins=options.in_turns not in (None, "bodies"))
    if cores.pinned:
        cores.pin(0, cores.driver)
    testbed = Testbed(folder, cores, cleanup)
    served_before = await testbed.served_by_upstream()
    postgres = STOCK if find_stock_postgres() is not None else POSTGRES
    counts, both = plan.counts[Workload.CALLS], options.only or (SQLITE, postgres)
    match options.in_turns:
        case "hits":
            table, targets = await measure_hits(testbed, both, plan.rounds, counts)
        case "seeing":
            table, targets = await measure_seeing(testbed, both, plan.rounds, counts)
        case "moderation":
            table, targets = await measure_moderation(testbed, both, plan)
        case "bodies":
            table, targets = await measure_large_bodies(testbed, both, plan.rounds)
        case "quotas":
            table, targets = await measure_further_quotas(testbed, plan.rounds, counts)
        case _:
            table, targets = await measure_scaling(
                testbed, options.only or (postgres,), options.workers, plan.rounds, counts
            )
    report.show_progress("checking")
    print(table, end="\n\n")
    print("\n".join(await verify_run(testbed, targets, served_before, started)))


def _available_kinds(database_delay_ms: float) -> tuple[str, ...]:
    """All targets on the system's PostgreSQL; where it has none, the one from the package index."""
    if find_stock_postgres() is not None:
        return (FORWARDER, SQLITE, STOCK, *((DISTANT,) if database_delay_ms else ()))
    print(
        "bench: no stock PostgreSQL found, so that of a wheel is measured instead (Debian: apt-get install postgresql)",
        file=sys.stderr,
    )
    return (FORWARDER, SQLITE, POSTGRES)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Handle SIGTERM and SIGHUP as Ctrl-C."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        signal.raise_signal(signal.SIGINT)

    previous = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    previous[signal.SIGINT] = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell may have set it to ignored
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _ignore_interrupts() -> None:
    """Ignore further signals while the children are stopped, which takes a bounded time."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
