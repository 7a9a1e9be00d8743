"""Statements as records, as rows for CSV, and as a page to print."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from html import escape
from typing import Any

from tollkeeper.quota.partition_months import written
from tollkeeper.usage.buckets import Sums
from tollkeeper.usage.rendering import SUM_FIELDS, plain_cell, sums_record
from tollkeeper.usage.statement_parts import ModelKey, ModelSums, QuotaBalance, Statement

_AMOUNTS = ("opening", "granted", "spent", "corrections", "closing")
_OF_CALLS = ("group", "model", "provider", "tag", "tag_value")
COLUMNS = ("section", "month", "quota", "unit", *_AMOUNTS, *_OF_CALLS, *SUM_FIELDS)

_TEXTS = ("quota", *_OF_CALLS)


def statement_record(statement: Statement, tenant: str, group_names: Mapping[int, str]) -> dict[str, Any]:
    """A statement by the names of the API. Money of balances is in micro-USD, as their `unit` says."""
    return {
        "tenant_id": statement.tenant_id,
        "tenant": tenant,
        "month": written(statement.month),
        "from": _iso(statement.starts_ms),
        "to": _iso(statement.ends_ms),
        "time_zone": statement.time_zone,
        "closed_at": _iso(statement.closed_ms) if statement.closed_ms is not None else None,
        "balances": [_balance_record(balance) for balance in statement.balances],
        "spent": _line_records(statement.spent, group_names),
        "total": sums_record(statement.total),
        "tags": [
            {"tag": key.name, "tag_value": key.value, **sums_record(sums)} for key, sums in statement.tags.items()
        ],
        "corrections": [
            {"month": written(month), **line}
            for month, lines in sorted(statement.corrections.items())
            for line in _line_records(lines, group_names)
        ],
    }


def statement_rows(record: Mapping[str, Any]) -> Iterator[list[str]]:
    """The header and the lines of a statement's record, with the COLUMNS."""
    yield [*COLUMNS]
    sections = {"balance": record["balances"], "spent": record["spent"], "total": [record["total"]]}
    sections["tag"] = record["tags"]
    for section, lines in (sections | {"correction": record["corrections"]}).items():
        for line in lines:
            values = {"month": record["month"]} | line | {"section": section}
            values["group"] = values.get("group_name") or values.get("group_id")
            cells = ("" if values.get(name) is None else str(values[name]) for name in COLUMNS)
            yield [plain_cell(cell) if name in _TEXTS else cell for name, cell in zip(COLUMNS, cells, strict=True)]


def statement_page(record: Mapping[str, Any]) -> str:
    """A statement's record as a page of HTML, which loads nothing and runs nothing."""
    title = escape(f"Statement of {record['tenant']}, {record['month']}")
    state = f"Closed at {record['closed_at']}" if record["closed_at"] else "Not closed yet: amounts can still change"
    of_lines = ("group", "model", "provider", *SUM_FIELDS)
    parts = [
        f"<h1>{title}</h1>",
        f"<p>From {record['from']} to {record['to']} ({escape(record['time_zone'])}). {state}.</p>",
        "<h2>Quotas of the tenant</h2>",
        _table(("quota", "unit", *_AMOUNTS), record["balances"]),
        "<h2>Spent</h2>",
        _table(of_lines, [*record["spent"], {"model": "total", **record["total"]}]),
    ]
    if record["tags"]:
        parts += ["<h2>Spent by tag</h2>", _table(("tag", "tag_value", *SUM_FIELDS), record["tags"])]
    if record["corrections"]:
        parts += ["<h2>Corrections of earlier months</h2>", _table(("month", *of_lines), record["corrections"])]
    head = f'<meta charset="utf-8"><title>{title}</title>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>'


def _table(columns: tuple[str, ...], lines: list[Mapping[str, Any]]) -> str:
    head = "".join(f'<th scope="col">{name.replace("_", " ")}</th>' for name in columns)
    rows = "".join(f"<tr>{''.join(_cell(line, name) for name in columns)}</tr>" for line in lines)
    return f'<table border="1" cellpadding="4"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'


def _cell(line: Mapping[str, Any], name: str) -> str:
    value = line.get("group_name") or line.get("group_id") if name == "group" else line.get(name)
    if isinstance(value, int):
        return f'<td align="right">{value:,}</td>'
    return f"<td>{escape(str(value)) if value is not None else ''}</td>"


def _balance_record(balance: QuotaBalance) -> dict[str, Any]:
    return {"quota": balance.quota, "unit": balance.unit, **{name: getattr(balance, name) for name in _AMOUNTS}}


def _line_records(lines: ModelSums, group_names: Mapping[int, str]) -> list[dict[str, Any]]:
    return [_line_record(key, sums, group_names) for key, sums in sorted(lines.items())]


def _line_record(key: ModelKey, sums: Sums, group_names: Mapping[int, str]) -> dict[str, Any]:
    group = {"group_id": key.group_id or None, "group_name": group_names.get(key.group_id)}
    return {**group, "model": key.model, "provider": key.provider, **sums_record(sums)}


def _iso(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat().replace("+00:00", "Z")
