"""Reports as records, for JSON, and as rows, for CSV."""

from collections.abc import Iterator, Mapping
from typing import Any

from tollkeeper.usage.buckets import MEASURES, Sums
from tollkeeper.usage.reports import Report, ReportLine

_NAMES = {
    "cost_tokens": "cost",
    "cost_micro_usd": "cost_usd",
    "refunded_tokens": "refunded",
    "refunded_micro_usd": "refunded_usd",
    "forgiven_tokens": "forgiven",
    "forgiven_micro_usd": "forgiven_usd",
}
SUM_FIELDS = tuple(_NAMES.get(name, name) for name in MEASURES)
COLUMNS = ("value", "label", *SUM_FIELDS)
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def sums_record(sums: Sums) -> dict[str, Any]:
    """The amounts by their names in the API. Money is a decimal string in USD."""
    return {
        _NAMES.get(name, name): usd_text(amount) if name.endswith("_usd") else amount
        for name, amount in zip(MEASURES, sums, strict=True)
    }


def line_record(line: ReportLine, labels: Mapping[str, str]) -> dict[str, Any]:
    """A line of a report. `value` is None for calls that have none."""
    return {"value": line.value or None, "label": labels.get(line.value), **sums_record(line.sums)}


def csv_rows(report: Report, labels: Mapping[str, str]) -> Iterator[list[str]]:
    """The header and the lines of a report, with the COLUMNS."""
    yield [*COLUMNS]
    for line in report.lines:
        yield [
            plain_cell(line.value),
            plain_cell(labels.get(line.value, "")),
            *map(str, sums_record(line.sums).values()),
        ]


def plain_cell(text: str) -> str:
    """A cell that no spreadsheet takes for a formula (OWASP, "CSV Injection")."""
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text


def usd_text(micro_usd: int) -> str:
    """Micro-USD as a decimal string in USD; a credit has a minus."""
    whole, rest = divmod(abs(micro_usd), 1_000_000)
    return f"{'-' if micro_usd < 0 else ''}{whole}.{rest:06d}"
