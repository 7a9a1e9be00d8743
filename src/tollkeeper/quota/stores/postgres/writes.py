"""Writes the changes of a page on PostgreSQL, in one statement: each kind of change is one of its data-modifying CTEs.

All parts of the statement see the same snapshot, and run in no defined order (PostgreSQL manual, 7.8.4 Data-Modifying
Statements in WITH). So no part writes a row that another part writes, and none reads what another writes. Foreign keys
are checked after the last part.
"""

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, NamedTuple

from tollkeeper.quota.rules.charge_row import CHARGE_COLUMNS, INSERTED_COLUMNS, UPDATED_COLUMNS, ChargeRow
from tollkeeper.quota.rules.jobs import JobChange
from tollkeeper.quota.rules.models import Charge, Entry
from tollkeeper.quota.rules.page import EntryRow, Page, WindowRow
from tollkeeper.quota.rules.temporary import TemporaryRow
from tollkeeper.quota.stores.postgres.connection import Connection
from tollkeeper.quota.stores.postgres.idempotency_keys import key_values
from tollkeeper.quota.stores.postgres.wanted_charges import only_month
from tollkeeper.quota.stores.rows import LIMITS, TERMS, all_values, inserted_values, limit_values, updated_values
from tollkeeper.quota.time_sorted_ids import usage_bucket_of


def _types(table: type[Charge] | type[Entry], columns: Iterable[str]) -> tuple[str, ...]:
    """The PostgreSQL type of each column. It is taken from the model, so that statements and schema always agree."""
    kinds = {"BIGINT": "bigint", "INTEGER": "integer", "BOOLEAN": "boolean"}
    described = {column.name: str(column.type) for column in table.__table__.columns}  # type: ignore[union-attr]
    return tuple(kinds.get(described[column], "text") for column in columns)


class _Part(NamedTuple):
    """One kind of change. `statement` has `{rows}` for the rows to write, which have columns of these `types`.

    It may have `{of_month}` for the condition that all charges are of one month.
    """

    statement: str
    types: tuple[str, ...]


def _insert(table: str, columns: Sequence[str], types: tuple[str, ...], conflict: str = "") -> _Part:
    return _Part(f"INSERT INTO {table} ({', '.join(columns)}) SELECT * FROM {{rows}}{conflict}", types)


_INSERT_CHARGES = _insert("charges", INSERTED_COLUMNS, _types(Charge, INSERTED_COLUMNS))
_INSERT_CLOSED_CHARGES = _insert("charges", CHARGE_COLUMNS, _types(Charge, CHARGE_COLUMNS))
_CHARGE_KEY = ("tenant_id", "month", "id")
_UPDATE_CHARGES = _Part(
    f"UPDATE charges SET {', '.join(f'{column} = new.{column}' for column in UPDATED_COLUMNS)}"
    f" FROM {{rows}} AS new ({', '.join((*_CHARGE_KEY, *UPDATED_COLUMNS))})"
    " WHERE charges.tenant_id = new.tenant_id AND charges.month = new.month AND charges.id = new.id{of_month}",
    _types(Charge, (*_CHARGE_KEY, *UPDATED_COLUMNS)),
)
_UPDATE_LIMITS = _Part(
    f"UPDATE quotas SET {', '.join(f'{column} = new.{column}' for column in LIMITS)} FROM {{rows}}"
    f" AS new (id, {', '.join(LIMITS)}) WHERE quotas.id = new.id",
    ("integer", "bigint", "boolean", "text", "bigint", "bigint", "bigint"),
)
_BALANCES = ("granted", "settled", "pending", "forgiven", "sequence")


def _update_windows(columns: Sequence[str], types: tuple[str, ...]) -> _Part:
    return _Part(
        f"UPDATE windows SET {', '.join(f'{column} = new.{column}' for column in columns)}"
        f" FROM {{rows}} AS new (tenant_id, id, {', '.join(columns)})"
        " WHERE windows.tenant_id = new.tenant_id AND windows.id = new.id",
        ("integer", "bigint", *types),
    )


_UPDATE_WINDOWS = _update_windows(_BALANCES, ("bigint",) * 5)
_UPDATE_TERMS = _update_windows((*_BALANCES, *TERMS), (*("bigint",) * 5, "boolean", *("bigint",) * 4))
_INSERT_TEMPORARY = _insert(
    "temporary_limits", TemporaryRow._fields[1:], ("integer", "integer", *("bigint",) * 4, "text")
)
_DELETE_GRANTS = _Part("DELETE FROM temporary_limits WHERE id IN (SELECT * FROM {rows})", ("integer",))
_INSERT_ENTRIES = _insert("entries", EntryRow._fields, _types(Entry, EntryRow._fields))
_KEY_CONTENT = ("charge_id", "fingerprint", "created_ms", "status", "content_type", "body")
_WRITE_KEYS = _insert(
    "idempotency_keys",
    ("tenant_id", "user_id", "key", *_KEY_CONTENT),
    ("integer", "integer", "text", "text", "text", "bigint", "integer", "text", "bytea"),
    " ON CONFLICT (tenant_id, user_id, key)"
    f" DO UPDATE SET {', '.join(f'{column} = excluded.{column}' for column in _KEY_CONTENT)}",
)

_UPDATE_JOBS = _Part(
    "UPDATE jobs SET charge_id = new.charge_id, status = new.status,"
    " started_ms = coalesce(jobs.started_ms, new.started_ms), completed_ms = new.completed_ms,"
    " outcome = coalesce(new.outcome, jobs.outcome)"
    f" FROM {{rows}} AS new ({', '.join(JobChange._fields)})"
    " WHERE jobs.tenant_id = new.tenant_id AND jobs.id = new.id AND jobs.completed_ms IS NULL",
    ("integer", "text", "text", "text", "bigint", "bigint", "bytea"),
)
_NOTE_USAGE = _insert("usage_changes", ("tenant_id", "charge_id"), ("integer", "text"))


async def write(connection: Connection, page: Page) -> None:
    """Write everything that the page changed."""
    changes = [(part, rows) for part, rows in _changes(page).items() if rows]
    if changes:
        values = [column for _, rows in changes for column in zip(*rows, strict=True)]
        month = only_month([charge.month for charge in page.changed_charges.values()])
        await connection.execute(_combined(tuple([part for part, _ in changes]), month), *values)


def _changes(page: Page) -> dict[_Part, Sequence[tuple[Any, ...]]]:
    """The rows that each part writes. A charge that is new and already changed again is inserted as it is now."""
    changed = page.changed_charges
    old, new = list(changed.values()), page.new_charges
    twice = [charge for charge in new if charge.id in changed] if changed else []
    if twice:
        ids = {charge.id for charge in twice}
        old = [charge for charge in old if charge.id not in ids]
        new = [charge for charge in new if charge.id not in ids]
    return {
        _INSERT_CHARGES: [inserted_values(charge) for charge in new],
        _INSERT_CLOSED_CHARGES: [all_values(charge) for charge in twice],
        _UPDATE_CHARGES: [(charge.tenant_id, charge.month, charge.id, *updated_values(charge)) for charge in old],
        _UPDATE_LIMITS: [(row.id, *limit_values(row)) for row in page.changed_limits.values()],
        _UPDATE_WINDOWS: [_balances(row) for id_, row in page.changed_windows.items() if id_ not in page.changed_terms],
        _UPDATE_TERMS: [
            (*_balances(row), row.report_only, row.override, row.due_ms, row.rolled, row.base)
            for row in page.changed_terms.values()
        ],
        _INSERT_TEMPORARY: [row[1:] for row in page.new_temporary],
        _DELETE_GRANTS: [(row_id,) for row_id in page.ended_grants],
        _INSERT_ENTRIES: page.new_entries,
        _WRITE_KEYS: key_values(page.changed_keys.values()) if page.changed_keys else [],
        _UPDATE_JOBS: [*page.changed_jobs.values()],
        _NOTE_USAGE: _changed_usage(changed.values()) if changed else [],
    }


def _balances(row: WindowRow) -> tuple[int, ...]:
    return row.tenant_id, row.id, row.granted, row.settled, row.pending, row.forgiven, row.sequence


def _changed_usage(changed: Iterable[ChargeRow]) -> list[tuple[int, str]]:
    """One closed charge of each tenant and bucket of usage whose sums change."""
    found = {(charge.tenant_id, usage_bucket_of(charge.id)): charge.id for charge in changed if not charge.open}
    return [(tenant_id, charge_id) for (tenant_id, _), charge_id in found.items()]


@cache
def _combined(parts: tuple[_Part, ...], month: int | None) -> str:
    """The statement that writes these parts. Its parameters are the columns of the first part, then the next, …

    `month` is that of all charges that are updated: see `wanted_charges`.
    """
    statements, first = [], 1
    of_month = f" AND charges.month = {month}" if month is not None else ""
    for part in parts:
        columns = ", ".join(f"${number}::{kind}[]" for number, kind in enumerate(part.types, first))
        statements.append(part.statement.format(rows=f"unnest({columns})", of_month=of_month))
        first += len(part.types)
    *others, last = statements
    ctes = ", ".join(f"part{number} AS ({statement})" for number, statement in enumerate(others, 1))
    return f"WITH {ctes} {last}" if others else last
