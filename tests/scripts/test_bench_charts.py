"""The bench's charts: one SVG for each table, with its numbers as text, readable on light and dark pages."""

import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from bench import charts
from bench.figures import Figure
from bench.memory import MemoryUse, Stage
from bench.results import LoadRow, LoneRow, MemoryRow, Results, name_targets
from bench.targets import FORWARDER, LITELLM, SQLITE
from bench.workload import Workload

pytestmark = pytest.mark.exhaustive

SVG = "{http://www.w3.org/2000/svg}"
ONE = Figure(1, 1, 1)
WHITE, DARK = "#ffffff", "#0d1117"
LOAD = [
    LoadRow(Workload.CHAT, FORWARDER, None, Figure(245, 240, 250), ONE),
    LoadRow(Workload.CHAT, SQLITE, None, Figure(700, 690, 711), Figure(2.86, 2.75, 2.96)),
    LoadRow(Workload.CHAT, SQLITE, "server", Figure(333, 333, 333), ONE),
    LoadRow(Workload.CHAT, LITELLM, None, Figure(7_350, 7_000, 7_500), Figure(30, 29, 31)),
]
LONE = [
    LoneRow(Workload.CHAT, FORWARDER, ONE, None, None, ONE, ONE),
    LoneRow(Workload.CHAT, SQLITE, ONE, Figure(0.91, 0.88, 1.02), 2.0, ONE, Figure(1.61, 1.5, 1.7)),
]
MEMORY = [MemoryRow(SQLITE, {Stage.STARTED: MemoryUse(88, 91), Stage.TOKENIZER: MemoryUse(151, 163)})]
RESULTS = Results(LOAD, LONE, MEMORY, name_targets(3))


def texts(file: Path) -> list[str]:
    return [element.text or "" for element in ET.parse(file).getroot().iter(f"{SVG}text")]


def luminance(color: str) -> float:
    channels = [int(color[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    red, green, blue = (one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def test_each_table_has_a_chart_with_its_numbers_as_text(tmp_path: Path) -> None:
    load, lone, memory = charts.draw_charts(RESULTS, tmp_path / "charts")
    assert [file.name for file in (load, lone, memory)] == ["under-load.svg", "lone-client.svg", "memory.svg"]
    assert {"/v1/chat/completions", "Tollkeeper, SQLite", "2.86 (2.75 to 2.96)", "7,350 (7,000 to 7,500)"} <= {
        *texts(load)
    }
    assert not any("333" in text for text in texts(load))
    assert {"0.91 (0.88 to 1.02)", "1.61 (1.50 to 1.70)"} <= {*texts(lone)}
    assert {"after the start", "88 (peak 91)", "151 (peak 163)"} <= {*texts(memory)}


def test_the_same_results_make_the_same_bytes(tmp_path: Path) -> None:
    first, second = (charts.draw_charts(RESULTS, tmp_path / name) for name in ("first", "second"))
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]
    assert not re.search(r"\d{4}-\d\d-\d\dT", first[0].read_text())


def test_the_text_has_the_colour_of_the_theme_and_the_page_shows_through(tmp_path: Path) -> None:
    svg = charts.draw_charts(RESULTS, tmp_path)[0].read_text()
    assert "prefers-color-scheme: dark" in svg
    assert svg.count(charts.INK) == 1
    assert all("currentColor" in tag for tag in re.findall(r"<text [^>]*>", svg))
    assert "fill: #ffffff" not in svg


def test_every_colour_has_contrast_on_a_light_and_on_a_dark_page() -> None:
    for color in (charts.OWN_COLOR, charts.PEER_COLOR, charts.BASELINE_COLOR):
        assert min(contrast(color, WHITE), contrast(color, DARK)) > 3
    assert min(contrast(charts.INK, WHITE), contrast(charts.INK_ON_DARK, DARK)) > 7


def test_a_table_without_rows_has_no_chart(tmp_path: Path) -> None:
    written = charts.draw_charts(Results([], LONE[:1], MEMORY, name_targets(3)), tmp_path)
    assert [file.name for file in written] == ["lone-client.svg", "memory.svg"]
    empty = Results([], [LoneRow(Workload.CHAT, SQLITE, ONE, None, None, ONE, None)], [], name_targets(3))
    assert charts.draw_charts(empty, tmp_path) == []
