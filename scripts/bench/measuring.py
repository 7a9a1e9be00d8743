"""Measuring: rounds in which every target takes its turn, so that a busy moment of the machine touches all alike."""

import asyncio
import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median, quantiles

from bench.load import Drive, Driver
from bench.processes import peak_rss_mb
from bench.targets import Target
from bench.work import Work

QUIET_S = 0.2
"""Waited before and after a run, so that each run's late work is counted as its own."""


@dataclass(frozen=True, slots=True)
class Amount:
    """How many calls: in a turn under load over so many connections, in a lone client's turn, and before all that."""

    loaded: int
    connections: int
    alone: int
    warm_up: int


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to measure. A lone client has one connection."""

    rounds: int
    amounts: Mapping[Work, Amount]


@dataclass(frozen=True, slots=True)
class Round:
    """One target's turn under load: CPU seconds part by part, calls, and what the load saw."""

    cpu: dict[str, float]
    calls: int
    drive: Drive

    def cpu_us(self, part: str | None = None) -> float:
        """CPU time per call in µs, of one part or of all."""
        return (sum(self.cpu.values()) if part is None else self.cpu[part]) / self.calls * 1e6

    @property
    def calls_per_second(self) -> float:
        return self.calls / self.drive.seconds

    @property
    def arrivals(self) -> float:
        """How often a client had something to read, per call."""
        return self.drive.arrivals / self.calls


@dataclass(slots=True)
class Result:
    """What was seen of one target at one kind of work."""

    target: Target
    work: Work
    rounds: list[Round] = field(default_factory=list)
    alone: list[Drive] = field(default_factory=list)
    peak_rss_mb: float = 0.0

    def cpu_us(self, part: str | None = None) -> float:
        return median(one.cpu_us(part) for one in self.rounds)

    @property
    def calls(self) -> int:
        return self.target.answered[self.work]

    @property
    def calls_per_second(self) -> float:
        return median(one.calls_per_second for one in self.rounds)

    @property
    def arrivals(self) -> float:
        return median(one.arrivals for one in self.rounds)

    @property
    def busy(self) -> float:
        """How much of one core all parts together used, 0 to 1: near 1, the core was the limit."""
        return median(sum(one.cpu.values()) / one.drive.seconds for one in self.rounds)

    @property
    def p50_ms(self) -> float:
        """Of a lone client's latency."""
        return median(self._latencies) * 1e3

    @property
    def p99_ms(self) -> float:
        return quantiles(self._latencies, n=100, method="inclusive")[98] * 1e3

    @property
    def first_p50_ms(self) -> float:
        """Until a lone client hears the first of the answer."""
        return median([seconds for drive in self.alone for seconds in drive.beginnings]) * 1e3

    @property
    def loaded_first_p50_ms(self) -> float:
        """The same under load."""
        return median([seconds for one in self.rounds for seconds in one.drive.beginnings]) * 1e3

    def ratio(self, yardstick: "Result", part: str | None = None) -> float:
        """CPU per call over the yardstick's, each round against its own."""
        pairs = zip(self.rounds, yardstick.rounds, strict=True)
        return median(one.cpu_us(part) / other.cpu_us() for one, other in pairs)

    @property
    def _latencies(self) -> list[float]:
        return [seconds for drive in self.alone for seconds in drive.latencies]


async def measure(targets: Sequence[Target], work: Work, plan: Plan) -> list[Result]:
    """Warm up, then take turns."""
    amount = plan.amounts[work]
    results = [Result(target, work) for target in targets]
    gc.collect()
    gc.freeze()
    for target in targets:
        await run(target, work, connections=amount.connections, calls=amount.warm_up)
    for _ in range(plan.rounds):
        for result in results:
            result.rounds.append(await loaded(result.target, work, plan))
        for result in results:
            result.alone.append(await run(result.target, work, connections=1, calls=amount.alone))
    for result in results:
        result.peak_rss_mb = peak_rss_mb(result.target.child.pid)
    return results


async def loaded(target: Target, work: Work, plan: Plan) -> Round:
    """One turn under load."""
    amount = plan.amounts[work]
    calls, connections = amount.loaded, amount.connections
    async with Driver(target.port, target.questions(work), connections=connections, calls=calls) as driver:
        await asyncio.sleep(QUIET_S)
        before = target.cpu_seconds()
        drive = await driver.run()
        await asyncio.sleep(QUIET_S)
        after = target.cpu_seconds()
    target.answered[work] += calls
    return Round({part: after[part] - before[part] for part in after}, calls, drive)


async def run(target: Target, work: Work, *, connections: int, calls: int) -> Drive:
    """Calls whose CPU time is not looked at."""
    async with Driver(target.port, target.questions(work), connections=connections, calls=calls) as driver:
        drive = await driver.run()
    target.answered[work] += calls
    return drive
