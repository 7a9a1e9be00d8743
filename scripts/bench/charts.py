"""Draws one SVG chart for each table: a dot for each median, and a line for its range.

The text is text, in the colour of the reader's light or dark theme; the background is transparent. The same results
always make the same bytes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import StringIO
from itertools import groupby
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from bench.figures import Figure
from bench.results import Results
from bench.targets import FORWARDER, PEERS
from bench.workload import Workload

INK, INK_ON_DARK = "#1f2328", "#e6edf3"
OWN_COLOR, PEER_COLOR, BASELINE_COLOR = "#3b82d6", "#d0661a", "#7d8590"
"""Each has enough contrast on white and on a dark page."""
LOG_SPREAD = 8
"""If the largest figure is more than this times the smallest, and all are positive, the axis is logarithmic."""
WIDTH_IN, HEAD_IN, ROW_IN = 9.5, 1.1, 0.25

_INK_SETTINGS = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
_SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "tollkeeper",
    "font.family": "sans-serif",
    "font.size": 9,
    **dict.fromkeys(_INK_SETTINGS, INK),
}
_STYLE = f"<style>svg {{color: {INK}}} @media (prefers-color-scheme: dark) {{svg {{color: {INK_ON_DARK}}}}}</style>"


@dataclass(frozen=True, slots=True)
class _Line:
    """One line of a chart: its group, its label, its target, and for each panel a figure with its text."""

    group: str
    label: str
    kind: str
    marks: tuple[tuple[Figure, str] | None, ...]


@dataclass(frozen=True, slots=True)
class _Chart:
    """A chart with panels side by side. A panel has a title, and a value that the axis shows in any case."""

    name: str
    title: str
    panels: tuple[tuple[str, float], ...]
    lines: Sequence[_Line]


def draw_charts(results: Results, folder: Path) -> list[Path]:
    """Write a chart for each table that has rows. Returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for chart in _charts(results):
        if chart.lines:
            file = folder / f"{chart.name}.svg"
            file.write_text(_draw(chart))
            written.append(file)
    return written


def _charts(results: Results) -> Iterable[_Chart]:
    yield _Chart(
        "under-load",
        "Under load: CPU time per call",
        (("× a bare forwarder's", 1.0), ("µs", 100.0)),
        [
            _line(results, row.workload, row.kind, (row.ratio, ".2f"), (row.cpu_us, ",.0f"))
            for row in results.load
            if row.part is None
        ],
    )
    yield _Chart(
        "lone-client",
        "A lone client",
        (("p50 minus a bare forwarder's, ms", 0.0), ("CPU time per call, × that under load", 1.0)),
        [
            _line(results, row.workload, row.kind, (row.added_p50_ms, ".2f"), (row.ratio, ".2f"))
            for row in results.lone
            if row.added_p50_ms is not None or row.ratio is not None
        ],
    )
    yield _Chart(
        "memory",
        "Memory: the resident set size, and the peak so far",
        (("MB", 0.0),),
        [
            _Line(
                results.name(row.kind), stage, row.kind, ((Figure(use.rss_mb, use.rss_mb, use.peak_mb), use.format()),)
            )
            for row in results.memory
            for stage, use in row.stages.items()
        ],
    )


def _line(results: Results, workload: Workload, kind: str, *figures: tuple[Figure | None, str]) -> _Line:
    marks = tuple((figure, figure.format(spec)) if figure is not None else None for figure, spec in figures)
    return _Line(workload.description, results.name(kind), kind, marks)


def _draw(chart: _Chart) -> str:
    """Returns the SVG document."""
    groups = [(title, list(lines)) for title, lines in groupby(chart.lines, key=lambda line: line.group)]
    rows = len(chart.lines) + len(groups)
    with mpl.rc_context(_SETTINGS):
        canvas = Canvas(figsize=(WIDTH_IN, HEAD_IN + ROW_IN * rows), layout="constrained")
        canvas.suptitle(chart.title, fontweight="bold", x=0.01, ha="left")
        columns = canvas.subplots(1, len(chart.panels), sharey=True, squeeze=False)[0]
        columns[0].set_ylim(rows - 0.4, -0.6)
        columns[0].set_yticks(*_labels(groups))
        for column, (axes, (title, reference)) in enumerate(zip(columns, chart.panels, strict=True)):
            marks = [(y, line.kind, *mark) for y, line in _places(groups) if (mark := line.marks[column])]
            _draw_panel(axes, marks, title, reference)
        for y, title in _titles(groups):
            columns[0].annotate(
                title,
                (0, y),
                xycoords=("axes fraction", "data"),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontweight="bold",
            )
        output = StringIO()
        canvas.savefig(output, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _follow_theme(output.getvalue())


def _places(groups: Sequence[tuple[str, Sequence[_Line]]]) -> Iterable[tuple[int, _Line]]:
    """Returns each line with its row. The first row of each group is its title."""
    y = 0
    for _, lines in groups:
        for line in lines:
            y += 1
            yield y, line
        y += 1


def _titles(groups: Sequence[tuple[str, Sequence[_Line]]]) -> Iterable[tuple[int, str]]:
    y = 0
    for title, lines in groups:
        yield y, title
        y += 1 + len(lines)


def _labels(groups: Sequence[tuple[str, Sequence[_Line]]]) -> tuple[list[int], list[str]]:
    places = list(_places(groups))
    return [y for y, _ in places], [line.label for _, line in places]


def _draw_panel(axes: Axes, marks: Sequence[tuple[int, str, Figure, str]], title: str, reference: float) -> None:
    """Draw one column: each figure as a dot, its range as a line, and its text beside it."""
    axes.set_xlabel(title)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(left=False)
    values = [reference, *(value for _, _, figure, _ in marks for value in (figure.low, figure.high))]
    if min(values) > 0 and max(values) > LOG_SPREAD * min(values):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    axes.axvline(reference, color=BASELINE_COLOR, linewidth=0.8, linestyle=":")
    for y, kind, figure, text in marks:
        color = BASELINE_COLOR if kind == FORWARDER else PEER_COLOR if kind in PEERS else OWN_COLOR
        axes.plot((figure.low, figure.high), (y, y), color=color, linewidth=2, alpha=0.6, solid_capstyle="butt")
        axes.plot(figure.median, y, "o", color=color, markersize=5)
        axes.annotate(text, (figure.high, y), xytext=(6, 0), textcoords="offset points", va="center", fontsize=8)
    axes.margins(x=0.35)


def _follow_theme(svg: str) -> str:
    """Replace the ink by the colour that the reader's theme sets."""
    head, tag, rest = svg.partition("<defs>")
    return head + _STYLE + "\n " + tag + rest.replace(INK, "currentColor")
