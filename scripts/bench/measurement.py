"""Measures all targets in rounds, one after the other, so that other load on the machine affects all of them alike."""

import asyncio
import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median, quantiles

from bench.load import LoadDriver, LoadResult
from bench.processes import peak_rss_mb
from bench.targets import Target
from bench.workload import Workload

IDLE_S = 0.2
"""The wait before and after a loaded run, so that work that a server defers is counted for its own run."""


@dataclass(frozen=True, slots=True)
class CallCounts:
    """The calls of a round under load, over `connections`; of a round with a single client; and of the warm-up."""

    loaded: int
    connections: int
    single: int
    warm_up: int


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to measure."""

    rounds: int
    counts: Mapping[Workload, CallCounts]


@dataclass(frozen=True, slots=True)
class LoadedRound:
    """One round of one target under load: CPU seconds by part (server, database), the calls, and the load's result."""

    cpu_s: dict[str, float]
    calls: int
    load: LoadResult

    def cpu_us(self, part: str | None = None) -> float:
        """Returns the CPU time per call in µs, of one part or of all."""
        return (sum(self.cpu_s.values()) if part is None else self.cpu_s[part]) / self.calls * 1e6

    @property
    def calls_per_second(self) -> float:
        return self.calls / self.load.duration_s

    @property
    def reads_per_call(self) -> float:
        """How often the client read from its connection, per call."""
        return self.load.reads / self.calls


@dataclass(slots=True)
class Measurement:
    """All rounds of one target with one workload."""

    target: Target
    workload: Workload
    loaded_rounds: list[LoadedRound] = field(default_factory=list)
    single_rounds: list[LoadResult] = field(default_factory=list)
    peak_rss_mb: float = 0.0

    def cpu_us(self, part: str | None = None) -> float:
        return median(one.cpu_us(part) for one in self.loaded_rounds)

    @property
    def calls(self) -> int:
        return self.target.completed[self.workload]

    @property
    def calls_per_second(self) -> float:
        return median(one.calls_per_second for one in self.loaded_rounds)

    @property
    def reads_per_call(self) -> float:
        return median(one.reads_per_call for one in self.loaded_rounds)

    @property
    def core_utilization(self) -> float:
        """The share of one core that all parts together used, 0 to 1. Near 1, the core was the limit."""
        return median(sum(one.cpu_s.values()) / one.load.duration_s for one in self.loaded_rounds)

    @property
    def p50_ms(self) -> float:
        """The latency of a single client."""
        return median(self._latencies_s) * 1e3

    @property
    def p99_ms(self) -> float:
        return quantiles(self._latencies_s, n=100, method="inclusive")[98] * 1e3

    @property
    def first_p50_ms(self) -> float:
        """The time to the first byte of the body, for a single client."""
        return median([seconds for load in self.single_rounds for seconds in load.first_byte_s]) * 1e3

    @property
    def loaded_first_p50_ms(self) -> float:
        """The time to the first byte of the body, under load."""
        return median([seconds for one in self.loaded_rounds for seconds in one.load.first_byte_s]) * 1e3

    def cpu_ratio(self, baseline: "Measurement", part: str | None = None) -> float:
        """Returns the CPU time per call relative to the baseline's: the median of the rounds' ratios."""
        pairs = zip(self.loaded_rounds, baseline.loaded_rounds, strict=True)
        return median(own.cpu_us(part) / other.cpu_us() for own, other in pairs)

    @property
    def _latencies_s(self) -> list[float]:
        return [seconds for load in self.single_rounds for seconds in load.latencies_s]


async def measure(targets: Sequence[Target], workload: Workload, plan: Plan) -> list[Measurement]:
    """Warm up every target, and then measure them round by round."""
    counts = plan.counts[workload]
    measurements = [Measurement(target, workload) for target in targets]
    gc.collect()
    gc.freeze()
    for target in targets:
        await run_calls(target, workload, connections=counts.connections, calls=counts.warm_up)
    for _ in range(plan.rounds):
        for measurement in measurements:
            measurement.loaded_rounds.append(await run_loaded_round(measurement.target, workload, plan))
        for measurement in measurements:
            measurement.single_rounds.append(
                await run_calls(measurement.target, workload, connections=1, calls=counts.single)
            )
    for measurement in measurements:
        measurement.peak_rss_mb = peak_rss_mb(measurement.target.child.pid)
    return measurements


async def run_loaded_round(target: Target, workload: Workload, plan: Plan) -> LoadedRound:
    """Make the calls of one round under load, and measure the CPU time."""
    counts = plan.counts[workload]
    requests = target.make_requests(workload)
    async with LoadDriver(target.port, requests, connections=counts.connections, calls=counts.loaded) as driver:
        await asyncio.sleep(IDLE_S)
        before = target.cpu_seconds()
        load = await driver.run()
        await asyncio.sleep(IDLE_S)
        after = target.cpu_seconds()
    target.completed[workload] += counts.loaded
    return LoadedRound({part: after[part] - before[part] for part in after}, counts.loaded, load)


async def run_calls(target: Target, workload: Workload, *, connections: int, calls: int) -> LoadResult:
    """Make calls without measuring the CPU time."""
    requests = target.make_requests(workload)
    async with LoadDriver(target.port, requests, connections=connections, calls=calls) as driver:
        load = await driver.run()
    target.completed[workload] += calls
    return load
