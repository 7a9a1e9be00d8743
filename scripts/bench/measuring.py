"""Measuring: rounds in which every target takes its turn, so that a busy moment of the machine touches all alike."""

import asyncio
import gc
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median, quantiles

from bench.load import Drive, Driver
from bench.processes import peak_rss_mb
from bench.targets import Target

QUIET_S = 0.2
"""Waited before and after a run, so that each run's late work is counted as its own."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to measure. The latency is that of a lone client; everything else is under `connections`."""

    rounds: int
    calls: int
    connections: int
    latency_calls: int
    warm_up: int


@dataclass(frozen=True, slots=True)
class Round:
    """One target's turn under load: CPU seconds part by part, calls, and seconds on the clock."""

    cpu: dict[str, float]
    calls: int
    seconds: float

    def cpu_us(self, part: str | None = None) -> float:
        """CPU time per call in µs, of one part or of all."""
        return (sum(self.cpu.values()) if part is None else self.cpu[part]) / self.calls * 1e6

    @property
    def calls_per_second(self) -> float:
        return self.calls / self.seconds


@dataclass(slots=True)
class Result:
    """What was seen of one target."""

    target: Target
    rounds: list[Round] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    peak_rss_mb: float = 0.0

    def cpu_us(self, part: str | None = None) -> float:
        return median(one.cpu_us(part) for one in self.rounds)

    @property
    def calls_per_second(self) -> float:
        return median(one.calls_per_second for one in self.rounds)

    @property
    def busy(self) -> float:
        """How much of one core all parts together used, 0 to 1: near 1, the core was the limit."""
        return median(sum(one.cpu.values()) / one.seconds for one in self.rounds)

    @property
    def p50_ms(self) -> float:
        return median(self.latencies) * 1e3

    @property
    def p99_ms(self) -> float:
        return quantiles(self.latencies, n=100, method="inclusive")[98] * 1e3

    def ratio(self, yardstick: "Result", part: str | None = None) -> float:
        """CPU per call over the yardstick's, each round against its own."""
        pairs = zip(self.rounds, yardstick.rounds, strict=True)
        return median(one.cpu_us(part) / other.cpu_us() for one, other in pairs)


async def measure(targets: Sequence[Target], plan: Plan) -> list[Result]:
    """Warm up, then take turns."""
    results = [Result(target) for target in targets]
    gc.collect()
    gc.freeze()
    for target in targets:
        await run(target, connections=plan.connections, calls=plan.warm_up)
    for _ in range(plan.rounds):
        for result in results:
            result.rounds.append(await loaded(result.target, plan))
        for result in results:
            drive = await run(result.target, connections=1, calls=plan.latency_calls)
            result.latencies += drive.latencies
    for result in results:
        result.peak_rss_mb = peak_rss_mb(result.target.child.pid)
    return results


async def loaded(target: Target, plan: Plan) -> Round:
    """One turn under load."""
    async with Driver(target.port, target.questions, connections=plan.connections, calls=plan.calls) as driver:
        await asyncio.sleep(QUIET_S)
        before = target.cpu_seconds()
        drive = await driver.run()
        await asyncio.sleep(QUIET_S)
        after = target.cpu_seconds()
    target.calls += plan.calls
    return Round({part: after[part] - before[part] for part in after}, plan.calls, drive.seconds)


async def run(target: Target, *, connections: int, calls: int) -> Drive:
    """Calls whose CPU time is not looked at."""
    async with Driver(target.port, target.questions, connections=connections, calls=calls) as driver:
        drive = await driver.run()
    target.calls += calls
    return drive
