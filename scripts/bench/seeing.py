"""What the log, the events and the metrics of a call cost, with the default settings.

Two servers on databases of their own take turns in each round, so that other load on the machine affects both alike.
One shows its calls as it does by default; of the other, they are taken out (`blind_server.py`).
"""

import sys
from collections.abc import Sequence

from bench.figures import Figure
from bench.measurement import CallCounts, Round, run_calls, run_round
from bench.processes import SCRIPTS
from bench.report import format_table, show_progress
from bench.targets import Target, Testbed
from bench.workload import Workload

BLIND_SERVER = SCRIPTS / "bench" / "blind_server.py"


async def measure_seeing(
    testbed: Testbed, kinds: Sequence[str], rounds: int, counts: CallCounts
) -> tuple[str, list[Target]]:
    """Returns the table, and the targets. Raises BenchError if a call fails."""
    targets, rows = list[Target](), list[Sequence[str]]()
    for kind in kinds:
        show_progress(f"starting {kind}")
        seen = await testbed.start_target(kind)
        blind = await testbed.start_target(
            kind, (sys.executable, str(BLIND_SERVER)), name=f"{kind}-blind", environment={"LOG_LEVEL": "error"}
        )
        targets += (seen, blind)
        for target in (seen, blind):
            await run_calls(target, Workload.CALLS, connections=counts.connections, calls=counts.warm_up)
        of_seen, of_blind = list[Round](), list[Round]()
        for number in range(rounds):
            show_progress(f"round {number + 1} of {rounds}")
            pair = ((seen, of_seen), (blind, of_blind))
            for target, measured in pair if number % 2 else reversed(pair):
                measured.append(await run_round(target, Workload.CALLS, counts.loaded, connections=counts.connections))
        ratio = Figure.of(one.cpu_us() / other.cpu_us() for one, other in zip(of_seen, of_blind, strict=True))
        rows.append((kind, "nothing", _cpu(of_blind), "1"))
        rows.append((kind, "all", _cpu(of_seen), ratio.format(".3f")))
    return format_table(("server", "shows", "CPU µs", "× nothing"), rows, texts=2), targets


def _cpu(rounds: Sequence[Round]) -> str:
    return Figure.of(one.cpu_us() for one in rounds).format(",.0f")
