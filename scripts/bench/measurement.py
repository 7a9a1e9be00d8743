"""Measures all targets in rounds, one after the other, so that other load on the machine affects all of them alike."""

import asyncio
import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median, quantiles

from bench.figures import Figure
from bench.load import LoadDriver, LoadResult
from bench.targets import Target
from bench.workload import Workload

IDLE_S = 0.2
"""The wait before and after a measured run, so that work that a server defers is counted for its own run."""
PEER_ROUND_S = 2.0
"""A peer that is slower gets fewer calls, so that its round takes about this long."""
PEER_WARM_UP_CALLS = 4
"""The most calls of a peer's warm-up, per connection."""


@dataclass(frozen=True, slots=True)
class CallCounts:
    """The calls of a round under load, over `connections`; of a round with a lone client; and of the warm-up."""

    loaded: int
    connections: int
    lone: int
    warm_up: int


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to measure."""

    rounds: int
    counts: Mapping[Workload, CallCounts]


@dataclass(frozen=True, slots=True)
class Round:
    """One round of one target: CPU seconds by part (server, database), the calls, and the load's result."""

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
    def core_utilization(self) -> float:
        """The share of one core that all parts together used, 0 to 1. Near 1, the core was the limit."""
        return sum(self.cpu_s.values()) / self.load.duration_s

    @property
    def reads_per_call(self) -> float:
        """How often the client read from its connection, per call."""
        return self.load.reads / self.calls

    def p50_ms(self, *, first_byte: bool) -> float:
        """Returns the median time until the body was complete, or until it started."""
        return median(self.load.first_byte_s if first_byte else self.load.latencies_s) * 1e3


@dataclass(slots=True)
class Measurement:
    """All rounds of one target with one workload. A target that only a lone client calls has no loaded rounds."""

    target: Target
    workload: Workload
    loaded: list[Round] = field(default_factory=list)
    lone: list[Round] = field(default_factory=list)

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts whose CPU time is known."""
        return tuple(self.lone[0].cpu_s)

    def cpu_us(self, part: str | None = None) -> Figure:
        """Returns the CPU time per call under load."""
        return Figure.of(one.cpu_us(part) for one in self.loaded)

    def lone_cpu_us(self) -> Figure:
        """Returns the CPU time per call of a lone client."""
        return Figure.of(one.cpu_us() for one in self.lone)

    def cpu_ratio(self, baseline: "Measurement", part: str | None = None) -> Figure:
        """Returns the CPU time per call under load relative to the baseline's, round by round."""
        pairs = zip(self.loaded, baseline.loaded, strict=True)
        return Figure.of(own.cpu_us(part) / other.cpu_us() for own, other in pairs)

    def lone_ratio(self) -> Figure:
        """Returns the CPU time per call of a lone client relative to that under load, round by round."""
        return Figure.of(lone.cpu_us() / loaded.cpu_us() for lone, loaded in zip(self.lone, self.loaded, strict=True))

    def calls_per_second(self) -> Figure:
        return Figure.of(one.calls_per_second for one in self.loaded)

    def core_utilization(self) -> Figure:
        return Figure.of(one.core_utilization for one in self.loaded)

    def p50_ms(self) -> Figure:
        """Returns the latency of a lone client: of a stream, until its first byte."""
        return Figure.of(one.p50_ms(first_byte=self.workload.is_stream) for one in self.lone)

    def p99_ms(self) -> float:
        """Returns the latency of a lone client that 1 % of all rounds' calls exceed. `lone` has two calls at least."""
        latencies_s = [seconds for one in self.lone for seconds in one.load.latencies_s]
        return quantiles(latencies_s, n=100, method="inclusive")[98] * 1e3

    def added_p50_ms(self, baseline: "Measurement") -> Figure:
        """Returns the latency of a lone client minus the baseline's, round by round."""
        return _added_ms(self.lone, baseline.lone, first_byte=self.workload.is_stream)

    def loaded_added_p50_ms(self, baseline: "Measurement") -> Figure:
        """Returns the time to the first byte under load minus the baseline's, round by round."""
        return _added_ms(self.loaded, baseline.loaded, first_byte=True)

    def reads_per_call(self) -> Figure:
        return Figure.of(one.reads_per_call for one in self.loaded)


def _added_ms(own: Sequence[Round], baseline: Sequence[Round], *, first_byte: bool) -> Figure:
    pairs = zip(own, baseline, strict=True)
    return Figure.of(one.p50_ms(first_byte=first_byte) - other.p50_ms(first_byte=first_byte) for one, other in pairs)


async def measure(targets: Sequence[Target], workload: Workload, plan: Plan) -> list[Measurement]:
    """Warm up every target that has this workload, and then measure them round by round."""
    measured = [target for target in targets if target.has(workload)]
    gc.collect()
    gc.freeze()
    counts = [await _warm_up(target, workload, plan.counts[workload]) for target in measured]
    measurements = [Measurement(target, workload) for target in measured]
    for _ in range(plan.rounds):
        for measurement, count in zip(measurements, counts, strict=True):
            if not measurement.target.is_lone_only:
                measurement.loaded.append(
                    await run_round(measurement.target, workload, count.loaded, connections=count.connections)
                )
        for measurement, count in zip(measurements, counts, strict=True):
            measurement.lone.append(await run_round(measurement.target, workload, count.lone, connections=1))
    return measurements


async def _warm_up(target: Target, workload: Workload, counts: CallCounts) -> CallCounts:
    """Returns the counts of the target's rounds: fewer for a slow peer."""
    if target.is_lone_only:
        await run_calls(target, workload, connections=1, calls=counts.connections)
        return replace(counts, lone=min(counts.lone, counts.connections))
    if not target.is_peer:
        await run_calls(target, workload, connections=counts.connections, calls=counts.warm_up)
        return counts
    calls = min(counts.warm_up, PEER_WARM_UP_CALLS * counts.connections)
    load = await run_calls(target, workload, connections=counts.connections, calls=calls)
    per_round = int(calls / load.duration_s * PEER_ROUND_S)
    return replace(counts, loaded=min(counts.loaded, max(counts.connections, per_round)))


async def run_round(target: Target, workload: Workload, calls: int, *, connections: int) -> Round:
    """Make the calls of one round, and measure the CPU time."""
    requests = target.make_requests(workload)
    async with LoadDriver(target.port, requests, connections=connections, calls=calls) as driver:
        await asyncio.sleep(IDLE_S)
        before = target.cpu_seconds()
        load = await driver.run()
        await asyncio.sleep(IDLE_S)
        after = target.cpu_seconds()
    target.completed[workload] += calls
    return Round({part: after[part] - before[part] for part in after}, calls, load)


async def run_calls(target: Target, workload: Workload, *, connections: int, calls: int) -> LoadResult:
    """Make calls without measuring the CPU time."""
    requests = target.make_requests(workload)
    async with LoadDriver(target.port, requests, connections=connections, calls=calls) as driver:
        load = await driver.run()
    target.completed[workload] += calls
    return load
