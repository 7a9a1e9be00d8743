"""The bench's tables: medians and ranges, ratios to the forwarder, and what is added to its latency."""

import json
from pathlib import Path
from typing import cast

import pytest

from bench import report
from bench.figures import Figure
from bench.load import LoadResult
from bench.measurement import CallCounts, Measurement, Plan, Round
from bench.memory import MemoryUse, Stage
from bench.processes import Child
from bench.results import Results, make_results, name_targets
from bench.targets import DATABASE, DISTANT, FORWARDER, SERVER, SQLITE, STOCK, Target
from bench.workload import Workload

pytestmark = pytest.mark.exhaustive

PLAN = Plan(3, {workload: CallCounts(10, 2, 5, 1) for workload in Workload})


def make_target(kind: str) -> Target:
    return Target(kind, cast(Child, None), 0)


def make_round(latency_ms: float, first_byte_ms: float, **cpu_ms: float) -> Round:
    """A round of 10 equal calls. `cpu_ms` is for the whole round, by part."""
    load = LoadResult(0.02, [first_byte_ms / 1e3] * 10, [latency_ms / 1e3] * 10, reads=20)
    return Round({part: cpu / 1e3 for part, cpu in cpu_ms.items()}, 10, load)


def measured(
    kind: str, workload: Workload, loaded_ms: list[dict[str, float]], lone: list[tuple[float, float]]
) -> Measurement:
    """`loaded_ms` has the CPU times of each loaded round, `lone` the latency and the CPU time of each lone one."""
    return Measurement(
        make_target(kind),
        workload,
        [make_round(9.0, 2.0 * number, **cpu) for number, cpu in enumerate(loaded_ms, start=1)],
        [make_round(latency, latency / 2, server=cpu) for latency, cpu in lone],
    )


def numbers(figure: Figure | None) -> tuple[float, float, float]:
    assert figure is not None
    return figure.median, figure.low, figure.high


def calls_results() -> Results:
    bare = measured(FORWARDER, Workload.CALLS, [{SERVER: 2}, {SERVER: 4}, {SERVER: 3}], [(1, 4), (2, 4), (3, 4)])
    sqlite = measured(SQLITE, Workload.CALLS, [{SERVER: 6}, {SERVER: 8}, {SERVER: 9}], [(1.5, 9), (4, 12), (4.5, 18)])
    stock = measured(STOCK, Workload.CALLS, [{SERVER: 4, DATABASE: 2}] * 3, [(1.5, 9), (4, 12), (4.5, 18)])
    for one in stock.lone:
        one.cpu_s[DATABASE] = 0.003
    distant = measured(DISTANT, Workload.CALLS, [], [(11, 10), (12, 10), (13, 10)])
    memory = {SQLITE: {Stage.STARTED: MemoryUse(80, 81), Stage.TOKENIZER: MemoryUse(150.4, 160.6)}}
    return make_results([[bare, sqlite, stock, distant]], memory, name_targets(3))


def test_a_figure_is_the_median_of_the_rounds_with_their_range() -> None:
    figure = Figure.of([3.0, 1.0, 2.5])
    assert (figure.median, figure.low, figure.high) == (2.5, 1.0, 3.0)
    assert figure.format(".1f") == "2.5 (1.0 to 3.0)"


def test_a_ratio_is_that_of_each_round_to_the_forwarder_of_the_same_round() -> None:
    row = next(row for row in calls_results().load if row.kind == SQLITE)
    assert row.ratio == Figure(3.0, 2.0, 3.0)
    assert numbers(row.cpu_us) == pytest.approx((800, 600, 900))
    assert row.per_second == Figure(500, 500, 500)
    assert numbers(row.busy) == pytest.approx((0.4, 0.3, 0.45))
    assert row.first_token_added_ms is None


def test_the_cpu_time_of_the_database_is_included_and_has_a_row_of_its_own() -> None:
    whole, server, database = (row for row in calls_results().load if row.kind == STOCK)
    assert (server.part, database.part) == (SERVER, DATABASE)
    assert whole.cpu_us.median == pytest.approx(server.cpu_us.median + database.cpu_us.median)
    assert whole.ratio is not None
    assert whole.ratio.median == pytest.approx(2.0)
    lone = next(row for row in calls_results().lone if row.kind == STOCK)
    assert lone.cpu_us.median == pytest.approx(1_500)


def test_a_lone_client_shows_the_added_latency_and_the_cpu_time_relative_to_that_under_load() -> None:
    row = next(row for row in calls_results().lone if row.kind == SQLITE)
    assert numbers(row.added_p50_ms) == pytest.approx((1.5, 0.5, 2.0))
    assert numbers(row.ratio) == pytest.approx((1.5, 1.5, 2.0))
    assert row.added_p99_ms == pytest.approx(1.5)


def test_a_target_that_only_a_lone_client_calls_has_no_row_under_load_and_no_ratio() -> None:
    results = calls_results()
    assert all(row.kind != DISTANT for row in results.load)
    row = next(row for row in results.lone if row.kind == DISTANT)
    assert (row.added_p50_ms, row.ratio) == (Figure(10, 10, 10), None)


def test_the_latency_of_a_stream_is_that_to_its_first_byte() -> None:
    bare = measured(FORWARDER, Workload.BURSTS, [{SERVER: 2}] * 2, [(2, 4), (2, 4)])
    sqlite = measured(SQLITE, Workload.BURSTS, [{SERVER: 6}] * 2, [(6, 9), (8, 9)])
    sqlite.loaded = [make_round(9.0, 7.0, server=6), make_round(9.0, 9.0, server=6)]
    results = make_results([[bare, sqlite]], {}, name_targets(3))
    load, lone = results.load[-1], results.lone[-1]
    assert numbers(load.first_token_added_ms) == pytest.approx((5.0, 5.0, 5.0))
    assert numbers(lone.added_p50_ms) == pytest.approx((2.5, 2.0, 3.0))
    assert lone.added_p99_ms is None


def test_without_the_forwarder_there_are_no_ratios() -> None:
    alone = measured(SQLITE, Workload.STREAMS, [{SERVER: 6}], [(6, 9)])
    results = make_results([[alone]], {}, name_targets(3))
    assert results.load[0].ratio is None
    assert results.load[0].first_token_added_ms is None
    assert results.lone[0].added_p50_ms is None
    assert " - |" in report.format_tables(results)


def test_the_tables_are_markdown_and_every_line_of_one_is_as_long() -> None:
    load, lone, memory = report.format_tables(calls_results()).split("\n\n")
    for table in (load, lone, memory):
        assert len({len(line) for line in table.splitlines()}) == 1
    assert "| /ai/query  | bare forwarder" in load
    assert "3.00 (2.00 to 3.00)" in load
    assert "… of which the database" in load
    assert "Tollkeeper, PostgreSQL 3 ms away" in lone
    assert "| Tollkeeper, SQLite |    80 (peak 81) |               - |                 - |   150 (peak 161) |" in memory


def test_the_json_has_the_rows_of_the_tables(tmp_path: Path) -> None:
    written = json.loads(json.dumps(report.as_json(calls_results(), PLAN, {SQLITE: {Workload.CALLS: 31}})))
    assert written["rounds"] == 3
    assert written["calls"] == {"sqlite": {"calls": 31}}
    assert written["load"][1]["ratio"] == {"median": 3.0, "low": 2.0, "high": 3.0}
    assert written["memory"][0]["stages"]["tokenizer loaded"] == {"rss_mb": 150.4, "peak_mb": 160.6}
    assert [row["kind"] for row in written["lone"]] == ["forwarder", "sqlite", "stock", "distant"]
