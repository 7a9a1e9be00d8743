"""The command: what to measure, in which order, and the cleaning up."""

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
from bench.checking import check
from bench.load import ask
from bench.measuring import Plan, Result, measure
from bench.processes import BenchError, Cores, peak_rss_mb
from bench.targets import KINDS, Lab, query

FAILED, INTERRUPTED = 1, 130
ROOM_FOR_A_CALL = 10_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0, or 1 when the bench could not measure, or found a charge that is not exact."""
    options = _options(arguments)
    plan = Plan(options.rounds, options.calls, options.connections, options.latency_calls, options.warm_up)
    try:
        with _interruptible(), ExitStack() as closing:
            folder = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="tollkeeper-bench-")))
            closing.callback(_ignore_interrupts)
            work = _profile(plan, folder, closing) if options.profile else _bench(options, plan, folder, closing)
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(work)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        return INTERRUPTED
    return 0


async def _bench(options: argparse.Namespace, plan: Plan, folder: Path, closing: ExitStack) -> None:
    started, load_before = datetime.now(UTC), os.getloadavg()[0]
    cores = Cores()
    cores.pin(0, cores.driver)
    lab = Lab(folder, cores, closing)
    targets = []
    for kind in options.only:
        _progress(f"starting {kind}")
        targets.append(await lab.start(kind))
    _progress(f"measuring {', '.join(options.only)}")
    results = await measure(targets, plan)
    tokenizer_mb = {one.target.kind: await _rss_with_tokenizer(one) for one in results if one.target.metered}
    _progress("checking")
    checked = await check(lab, targets, started)
    print(report.table(results), end="\n\n")
    print(report.explanation(results, plan, cores, load_before))
    for result in results:
        if result.target.metered:
            print(report.tokenizer_line(result, tokenizer_mb[result.target.kind]))
    print("\n".join(checked))
    if options.json is not None:
        options.json.write_text(json.dumps(report.as_json(results, tokenizer_mb), indent=2) + "\n")


async def _profile(plan: Plan, folder: Path, closing: ExitStack) -> None:
    cores = Cores()
    cores.pin(0, cores.driver)
    print(await profiling.profile(Lab(folder, cores, closing), plan, folder))


async def _rss_with_tokenizer(result: Result) -> float:
    """The peak after one call that cannot do without an exact count."""
    target = result.target
    await ask(target.port, query(target.users[0], context_allocation=ROOM_FOR_A_CALL))
    target.calls += 1
    return peak_rss_mb(target.child.pid)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--rounds", type=_positive, default=9, metavar="N", help="turns of each target [%(default)s]")
    parser.add_argument("--calls", type=_positive, default=2_500, metavar="N", help="calls of a turn [%(default)s]")
    parser.add_argument("--connections", type=_positive, default=32, metavar="N", help="at once [%(default)s]")
    parser.add_argument(
        "--latency-calls", type=_latency, default=300, metavar="N", help="calls of a lone client, a turn [%(default)s]"
    )
    parser.add_argument("--warm-up", type=_positive, default=1_000, metavar="N", help="calls before [%(default)s]")
    parser.add_argument("--only", type=_kinds, default=KINDS, metavar="A,B", help=f"of {','.join(KINDS)}")
    parser.add_argument("--json", type=lambda name: Path(name).resolve(), metavar="FILE", help="write the numbers too")
    parser.add_argument("--profile", action="store_true", help="instead: where the SQLite server's time goes")
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def _latency(text: str) -> int:
    number = int(text)
    if number < 2:
        raise argparse.ArgumentTypeError("must be 2 or more")
    return number


def _kinds(text: str) -> tuple[str, ...]:
    asked = text.split(",")
    if unknown := set(asked) - set(KINDS):
        raise argparse.ArgumentTypeError(f"knows {', '.join(KINDS)}, not {', '.join(sorted(unknown))}")
    return tuple(kind for kind in KINDS if kind in asked)


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM and SIGHUP end the bench the way Ctrl-C does."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        signal.raise_signal(signal.SIGINT)

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have had it ignored
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ignore_interrupts() -> None:
    """While children are being ended, which takes a bounded time."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def _progress(doing: str) -> None:
    print(f"… {doing}", file=sys.stderr, flush=True)
