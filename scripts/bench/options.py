"""The options of the benchmark, and the amount of work that they select."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import bench
from bench.bulk_ledger import LedgerSize
from bench.growth import SIZES, parse_size
from bench.measurement import CallCounts, Plan
from bench.scaling import WORKERS
from bench.targets import KINDS, PEERS
from bench.workload import Workload

_AMOUNTS = {
    "rounds": (9, 1, 1, "rounds of each target"),
    "calls": (2_500, 40, 1, "calls per round under load"),
    "connections": (32, 4, 1, "connections of the calls"),
    "lone_calls": (300, 5, 2, "calls per round of a lone client"),
    "streams": (960, 8, 1, "streams per round under load"),
    "stream_connections": (96, 4, 1, "connections of the streams, and streams of the warm-up"),
    "lone_streams": (10, 2, 2, "streams per round of a lone client"),
    "warm_up": (1_000, 10, 1, "calls before the first round"),
}
"""By option: the number for a full run, the number for a quick one, the lowest number, and the help."""
_IN_TURNS = {
    "hits": "calls that the response cache answers, beside others",
    "seeing": "what the log, the events and the metrics of calls cost",
    "quotas": "what each further quota costs a call, by its kind",
    "moderation": "streams of tenants with and without moderation",
    "bodies": "how long others wait while a member sends large bodies",
}
"""The measurements of things that take turns."""
CHARTS = Path(__file__).resolve().parents[2] / "docs" / "charts"


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Returns the options. Exits with 2 after a mistake."""
    parser = _make_parser()
    is_quick = parser.parse_args(arguments).quick
    parser.set_defaults(**{name: quick if is_quick else full for name, (full, quick, _, _) in _AMOUNTS.items()})
    return parser.parse_args(arguments)


def make_plan(options: argparse.Namespace) -> Plan:
    """Returns how much to measure."""
    calls = CallCounts(options.calls, options.connections, options.lone_calls, options.warm_up)
    connections = options.stream_connections
    streams = CallCounts(options.streams, connections, options.lone_streams, warm_up=connections)
    return Plan(options.rounds, {workload: streams if workload.is_stream else calls for workload in Workload})


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=bench.__doc__)
    for name, (full, quick, lowest, meaning) in _AMOUNTS.items():
        help_text = f"{meaning} [{full}; quick: {quick}]"
        parser.add_argument(f"--{name.replace('_', '-')}", type=_at_least(lowest), metavar="N", help=help_text)
    parser.add_argument("--quick", action="store_true", help="few calls: shows that everything works, not how fast")
    parser.add_argument(
        "--what", type=_parse_workloads, default=tuple(Workload), metavar="A,B", help=f"of {','.join(Workload)}"
    )
    parser.add_argument(
        "--only",
        type=_choices(KINDS),
        metavar="A,B",
        help=f"targets, of {','.join(KINDS)} [all but postgres, which replaces the two after it where the system has no"
        " PostgreSQL]",
    )
    parser.add_argument(
        "--peers",
        type=_parse_paths,
        nargs="?",
        const=(),
        metavar="ENV,ENV",
        help=f"also measure {' and '.join(PEERS)}, where these environments have them [this one and those in PATH]",
    )
    parser.add_argument(
        "--database-delay-ms",
        type=_parse_delay,
        default=3.0,
        metavar="MS",
        help="how much longer a round trip to the distant database takes; 0 leaves it out [%(default)g]",
    )
    parser.add_argument("--json", type=_parse_path, metavar="FILE", help="also write the numbers as JSON")
    parser.add_argument(
        "--charts",
        type=_parse_path,
        nargs="?",
        const=CHARTS,
        metavar="FOLDER",
        help="also draw one SVG chart for each table [docs/charts]",
    )
    _add_other_measurements(parser)
    return parser


def _add_other_measurements(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--profile",
        type=Workload,
        choices=tuple(Workload),
        nargs="?",
        const=Workload.CALLS,
        metavar="WHAT",
        help="instead: profile the SQLite server with this workload [%(const)s]",
    )
    parser.add_argument(
        "--growth",
        type=_parse_sizes,
        nargs="?",
        const=SIZES,
        metavar="U:E,U:E",
        help="instead: measure calls and `ledger verify` on ledgers with so many users and entries"
        f" [{','.join(f'{size.users}:{size.entries}' for size in SIZES)}]",
    )
    for name, what in _IN_TURNS.items():
        parser.add_argument(
            f"--{name}", action="store_const", const=name, dest="in_turns", help=f"instead: measure {what}"
        )
    parser.add_argument(
        "--workers",
        type=_parse_workers,
        nargs="?",
        const=WORKERS,
        metavar="N,N",
        help="instead: measure servers with so many workers, with a tenant for each caller and with one for all"
        f" [{','.join(map(str, WORKERS))}]",
    )


def _parse_workers(text: str) -> tuple[int, ...]:
    return tuple(_at_least(1)(number) for number in text.split(","))


def _parse_sizes(text: str) -> tuple[LedgerSize, ...]:
    return tuple(map(parse_size, text.split(",")))


def _at_least(lowest: int) -> Any:
    def parse(text: str) -> int:
        number = int(text)
        if number < lowest:
            raise argparse.ArgumentTypeError(f"must be {lowest} or more")
        return number

    return parse


def _parse_delay(text: str) -> float:
    delay_ms = float(text)
    if not 0 <= delay_ms <= 1_000:
        raise argparse.ArgumentTypeError("must be between 0 and 1000")
    return delay_ms


def _parse_path(text: str) -> Path:
    return Path(text).resolve()


def _parse_paths(text: str) -> tuple[Path, ...]:
    return tuple(Path(name).absolute() for name in text.split(","))


def _parse_workloads(text: str) -> tuple[Workload, ...]:
    return tuple(map(Workload, _choices(tuple(Workload))(text)))


def _choices(choices: Sequence[str]) -> Any:
    """Returns a function that returns the named choices, in the order of `choices`."""

    def parse(text: str) -> tuple[str, ...]:
        names = text.split(",")
        if unknown := set(names) - set(choices):
            raise argparse.ArgumentTypeError(f"accepts {', '.join(choices)}, not {', '.join(sorted(unknown))}")
        return tuple(choice for choice in choices if choice in names)

    return parse
