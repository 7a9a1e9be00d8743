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
from bench.measuring import Amount, Plan, measure
from bench.processes import BenchError, Cores, peak_rss_mb
from bench.targets import KINDS, Lab, Target
from bench.work import Work, native

FAILED, INTERRUPTED = 1, 130
ROOM_FOR_A_CALL = 10_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0, or 1 when the bench could not measure, or found a charge that is not exact."""
    options = _options(arguments)
    calls = Amount(options.calls, options.connections, options.latency_calls, options.warm_up)
    at_once = options.stream_connections
    streams = Amount(options.streams, at_once, options.latency_streams, warm_up=at_once)
    amounts = {work: streams if work.streamed else calls for work in Work}
    plan = Plan(options.rounds, amounts)
    try:
        with _interruptible(), ExitStack() as closing:
            folder = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="tollkeeper-bench-")))
            closing.callback(_ignore_interrupts)
            work = (
                _profile(options.profile, plan, folder, closing)
                if options.profile
                else _bench(options, plan, folder, closing)
            )
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
    results = []
    for work in options.what:
        _progress(f"measuring {work}: {', '.join(options.only)}")
        results.append(await measure(targets, work, plan))
    tokenizer_mb = {target.kind: await _rss_with_tokenizer(target) for target in targets if target.metered}
    _progress("checking")
    checked = await check(lab, targets, started)
    for measured in results:
        print(report.table(measured), end="\n\n")
    print(report.explanation(results, plan, cores, load_before))
    for kind, megabytes in tokenizer_mb.items():
        print(f"{report.NAMES[kind]}: {megabytes:.0f} MB at most once the tokenizer is loaded.")
    print("\n".join(checked))
    if options.json is not None:
        options.json.write_text(json.dumps(report.as_json(results, tokenizer_mb), indent=2) + "\n")


async def _profile(work: Work, plan: Plan, folder: Path, closing: ExitStack) -> None:
    cores = Cores()
    cores.pin(0, cores.driver)
    print(await profiling.profile(Lab(folder, cores, closing), work, plan, folder))


async def _rss_with_tokenizer(target: Target) -> float:
    """The peak after one call that cannot do without an exact count."""
    await ask(target.port, native(target.users[0].token, context_allocation=ROOM_FOR_A_CALL))
    target.answered[Work.CALLS] += 1
    return peak_rss_mb(target.child.pid)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--rounds", type=_positive, default=9, metavar="N", help="turns of each target [%(default)s]")
    parser.add_argument("--calls", type=_positive, default=2_500, metavar="N", help="calls of a turn [%(default)s]")
    parser.add_argument("--streams", type=_positive, default=960, metavar="N", help="streams of a turn [%(default)s]")
    parser.add_argument("--connections", type=_positive, default=32, metavar="N", help="calls at once [%(default)s]")
    parser.add_argument(
        "--stream-connections", type=_positive, default=96, metavar="N", help="streams at once [%(default)s]"
    )
    parser.add_argument(
        "--latency-calls", type=_latency, default=300, metavar="N", help="calls of a lone client, a turn [%(default)s]"
    )
    parser.add_argument(
        "--latency-streams", type=_latency, default=20, metavar="N", help="streams of the same [%(default)s]"
    )
    parser.add_argument("--warm-up", type=_positive, default=1_000, metavar="N", help="calls before [%(default)s]")
    parser.add_argument("--what", type=_works, default=tuple(Work), metavar="A,B", help=f"of {','.join(Work)}")
    parser.add_argument("--only", type=_kinds, default=KINDS, metavar="A,B", help=f"of {','.join(KINDS)}")
    parser.add_argument("--json", type=lambda name: Path(name).resolve(), metavar="FILE", help="write the numbers too")
    parser.add_argument(
        "--profile",
        type=Work,
        choices=tuple(Work),
        nargs="?",
        const=Work.CALLS,
        metavar="WHAT",
        help="instead: where the SQLite server's time goes at that work [%(const)s]",
    )
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
    return _some(text, KINDS)


def _works(text: str) -> tuple[Work, ...]:
    return tuple(map(Work, _some(text, tuple(Work))))


def _some(text: str, known: Sequence[str]) -> tuple[str, ...]:
    """Those that are named, in the order in which they are known."""
    asked = text.split(",")
    if unknown := set(asked) - set(known):
        raise argparse.ArgumentTypeError(f"knows {', '.join(known)}, not {', '.join(sorted(unknown))}")
    return tuple(one for one in known if one in asked)


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
