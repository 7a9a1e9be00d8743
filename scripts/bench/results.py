"""The rows of the three tables: under load, a lone client, and memory. The text, the JSON and the charts show these."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.figures import Figure
from bench.measurement import Measurement
from bench.memory import MemoryUse, Stage
from bench.targets import DATABASE, DISTANT, FORWARDER, LITELLM, POSTGRES, SERVER, SQLITE, STOCK, TENSORZERO
from bench.workload import Workload

PARTS = {SERVER: "… of which the server", DATABASE: "… of which the database"}


@dataclass(frozen=True, slots=True)
class LoadRow:
    """One target, or a part of it, under load with one workload. Times are per call.

    `ratio` is the CPU time relative to the forwarder's, and `first_token_added_ms` the median time to the first byte
    of a stream minus the forwarder's. Both are None without the forwarder. A part has only CPU times.
    """

    workload: Workload
    kind: str
    part: str | None
    cpu_us: Figure
    ratio: Figure | None
    per_second: Figure | None = None
    busy: Figure | None = None
    first_token_added_ms: Figure | None = None


@dataclass(frozen=True, slots=True)
class LoneRow:
    """One target called by a lone client with one workload. Times are per call.

    Latencies are to the end of a call, and to the first byte of a stream; added ones are minus the forwarder's.
    `ratio` is the CPU time relative to that under load.
    """

    workload: Workload
    kind: str
    p50_ms: Figure
    added_p50_ms: Figure | None
    added_p99_ms: float | None
    cpu_us: Figure
    ratio: Figure | None


@dataclass(frozen=True, slots=True)
class MemoryRow:
    """The memory of one target's server, by stage."""

    kind: str
    stages: Mapping[Stage, MemoryUse]


@dataclass(frozen=True, slots=True)
class Results:
    """All tables, and the names of the targets by kind."""

    load: Sequence[LoadRow]
    lone: Sequence[LoneRow]
    memory: Sequence[MemoryRow]
    names: Mapping[str, str]

    def name(self, kind: str, part: str | None = None) -> str:
        return self.names[kind] if part is None else PARTS[part]


def make_results(
    tables: Sequence[Sequence[Measurement]], memory: Mapping[str, Mapping[Stage, MemoryUse]], names: Mapping[str, str]
) -> Results:
    """Returns the rows of the measurements, of which there is one table for each workload."""
    load: list[LoadRow] = []
    lone: list[LoneRow] = []
    for measurements in tables:
        bare = next((one for one in measurements if one.target.kind == FORWARDER), None)
        for one in measurements:
            load += _load_rows(one, bare) if one.loaded else ()
            lone.append(_lone_row(one, bare))
    return Results(load, lone, [MemoryRow(kind, stages) for kind, stages in memory.items()], names)


def name_targets(database_delay_ms: float) -> dict[str, str]:
    """Returns the names of all targets by kind."""
    return {
        FORWARDER: "bare forwarder",
        SQLITE: "Tollkeeper, SQLite",
        STOCK: "Tollkeeper, PostgreSQL",
        DISTANT: f"Tollkeeper, PostgreSQL {database_delay_ms:g} ms away",
        POSTGRES: "Tollkeeper, PostgreSQL of a wheel",
        TENSORZERO: "TensorZero, no database",
        LITELLM: "LiteLLM, no database",
    }


def _load_rows(one: Measurement, bare: Measurement | None) -> list[LoadRow]:
    workload, kind = one.workload, one.target.kind
    first_token_ms = one.loaded_added_p50_ms(bare) if bare not in (None, one) and workload.is_stream else None
    whole = LoadRow(
        workload,
        kind,
        None,
        one.cpu_us(),
        one.cpu_ratio(bare) if bare is not None else None,
        one.calls_per_second(),
        one.core_utilization(),
        first_token_ms,
    )
    parts = one.parts if DATABASE in one.parts else ()
    return [
        whole,
        *(
            LoadRow(workload, kind, part, one.cpu_us(part), one.cpu_ratio(bare, part) if bare is not None else None)
            for part in parts
        ),
    ]


def _lone_row(one: Measurement, bare: Measurement | None) -> LoneRow:
    added = bare if bare is not one else None
    return LoneRow(
        one.workload,
        one.target.kind,
        one.p50_ms(),
        one.added_p50_ms(added) if added is not None else None,
        one.p99_ms() - added.p99_ms() if added is not None and not one.workload.is_stream else None,
        one.lone_cpu_us(),
        one.lone_ratio() if one.loaded else None,
    )
