"""The command line of the benchmark: options, the order of the measurements, and the cleanup."""

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

import bench
from bench import profiling, report
from bench.databases import find_stock_postgres
from bench.load import request_json
from bench.measurement import CallCounts, Plan, measure
from bench.processes import BenchError, Cores, peak_rss_mb
from bench.targets import KINDS, STOCK, Target, Testbed
from bench.verification import verify_run
from bench.workload import Workload, native_request

EXIT_FAILED, EXIT_INTERRUPTED = 1, 130
CONTEXT_ALLOCATION_TOKENS = 10_000
"""Large enough for the prompt. A call with a context allocation needs an exact count, which loads the tokenizer."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, 1 after a failed measurement or an inexact charge, 130 after Ctrl-C."""
    options = _parse_options(arguments)
    calls = CallCounts(options.calls, options.connections, options.latency_calls, options.warm_up)
    connections = options.stream_connections
    streams = CallCounts(options.streams, connections, options.latency_streams, warm_up=connections)
    plan = Plan(options.rounds, {workload: streams if workload.is_stream else calls for workload in Workload})
    try:
        with _interruptible(), ExitStack() as cleanup:
            folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="tollkeeper-bench-")))
            cleanup.callback(_ignore_interrupts)
            coroutine = (
                _profile(options.profile, plan, folder, cleanup)
                if options.profile
                else _bench(options, plan, folder, cleanup)
            )
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
    testbed = Testbed(folder, cores, cleanup)
    targets = []
    kinds = options.only or _available_kinds()
    for kind in kinds:
        _show_progress(f"starting {kind}")
        targets.append(await testbed.start_target(kind))
    results = []
    for workload in options.what:
        _show_progress(f"measuring {workload}: {', '.join(kinds)}")
        results.append(await measure(targets, workload, plan))
    tokenizer_mb = {target.kind: await _rss_with_tokenizer(target) for target in targets if target.is_metered}
    _show_progress("checking")
    checks = await verify_run(testbed, targets, started)
    for measurements in results:
        print(report.format_table(measurements), end="\n\n")
    print(report.explain(results, plan, cores, load_before))
    for kind, megabytes in tokenizer_mb.items():
        print(f"{report.NAMES[kind]}: {megabytes:.0f} MB peak RSS after the tokenizer is loaded.")
    print("\n".join(checks))
    if options.json is not None:
        options.json.write_text(json.dumps(report.as_json(results, tokenizer_mb), indent=2) + "\n")


async def _profile(workload: Workload, plan: Plan, folder: Path, cleanup: ExitStack) -> None:
    cores = Cores()
    cores.pin(0, cores.driver)
    print(await profiling.profile(Testbed(folder, cores, cleanup), workload, plan, folder))


async def _rss_with_tokenizer(target: Target) -> float:
    """Returns the peak RSS in MB after one call that needs the tokenizer."""
    request = native_request(target.users[0].token, context_allocation=CONTEXT_ALLOCATION_TOKENS)
    await request_json(target.port, request)
    target.completed[Workload.CALLS] += 1
    return peak_rss_mb(target.child.pid)


def _parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=bench.__doc__)
    parser.add_argument(
        "--rounds", type=_at_least_one, default=9, metavar="N", help="rounds of each target [%(default)s]"
    )
    parser.add_argument(
        "--calls", type=_at_least_one, default=2_500, metavar="N", help="calls per round under load [%(default)s]"
    )
    parser.add_argument(
        "--streams", type=_at_least_one, default=960, metavar="N", help="streams per round under load [%(default)s]"
    )
    parser.add_argument(
        "--connections", type=_at_least_one, default=32, metavar="N", help="connections of the calls [%(default)s]"
    )
    parser.add_argument(
        "--stream-connections",
        type=_at_least_one,
        default=96,
        metavar="N",
        help="connections of the streams [%(default)s]",
    )
    parser.add_argument(
        "--latency-calls",
        type=_at_least_two,
        default=300,
        metavar="N",
        help="calls per round of a single client [%(default)s]",
    )
    parser.add_argument(
        "--latency-streams",
        type=_at_least_two,
        default=20,
        metavar="N",
        help="streams per round of a single client [%(default)s]",
    )
    parser.add_argument(
        "--warm-up", type=_at_least_one, default=1_000, metavar="N", help="calls before the first round [%(default)s]"
    )
    parser.add_argument(
        "--what",
        type=_parse_workloads,
        default=tuple(Workload),
        metavar="A,B",
        help=f"workloads, of {','.join(Workload)}",
    )
    parser.add_argument(
        "--only", type=_parse_kinds, metavar="A,B", help=f"targets, of {','.join(KINDS)} [all that there are]"
    )
    parser.add_argument(
        "--json", type=lambda name: Path(name).resolve(), metavar="FILE", help="also write the numbers as JSON"
    )
    parser.add_argument(
        "--profile",
        type=Workload,
        choices=tuple(Workload),
        nargs="?",
        const=Workload.CALLS,
        metavar="WHAT",
        help="instead: profile the SQLite server with this workload [%(const)s]",
    )
    return parser.parse_args(arguments)


def _available_kinds() -> tuple[str, ...]:
    """All targets; without the system's PostgreSQL where there is none."""
    if find_stock_postgres() is not None:
        return KINDS
    print(
        "bench: no stock PostgreSQL found, so it is not measured (Debian: apt-get install postgresql)", file=sys.stderr
    )
    return tuple(kind for kind in KINDS if kind != STOCK)


def _at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def _at_least_two(text: str) -> int:
    number = int(text)
    if number < 2:
        raise argparse.ArgumentTypeError("must be 2 or more")
    return number


def _parse_kinds(text: str) -> tuple[str, ...]:
    return _parse_choices(text, KINDS)


def _parse_workloads(text: str) -> tuple[Workload, ...]:
    return tuple(map(Workload, _parse_choices(text, tuple(Workload))))


def _parse_choices(text: str, choices: Sequence[str]) -> tuple[str, ...]:
    """Returns the named choices, in the order of `choices`."""
    names = text.split(",")
    if unknown := set(names) - set(choices):
        raise argparse.ArgumentTypeError(f"accepts {', '.join(choices)}, not {', '.join(sorted(unknown))}")
    return tuple(choice for choice in choices if choice in names)


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


def _show_progress(step: str) -> None:
    print(f"… {step}", file=sys.stderr, flush=True)
