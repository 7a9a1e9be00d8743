"""Writes the changes of a page on SQLite: many rows per statement.

Each step of a statement releases Python's global lock and must regain it from a busy event loop. So a batch uses few
statements. Each writes a power of two of rows, so that few different statements need to be prepared.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

from tollkeeper.quota.rules.charge_row import CHARGE_COLUMNS, INSERTED_COLUMNS, UPDATED_COLUMNS
from tollkeeper.quota.rules.page import EntryRow, Page, WindowRow
from tollkeeper.quota.stores.rows import LIMITS, TERMS, all_values, inserted_values, limit_values
from tollkeeper.quota.stores.sqlite.idempotency_keys import write_keys
from tollkeeper.quota.stores.sqlite.temporary import write_temporary

MAX_ROWS_PER_STATEMENT = 64
"""With the widest row, this is below SQLite's limit of 32,766 parameters."""

_BALANCES = ("granted", "settled", "pending", "forgiven", "sequence")
_WINDOW_COLUMNS = ("id", "tenant_id", "quota_id", "value", "starts_ms", "ends_ms", *_BALANCES)


class Insert:
    """Inserts any number of rows. With `update`, these columns of rows whose `key` exists are replaced."""

    def __init__(self, table: str, columns: Sequence[str], key: str = "", update: Sequence[str] = ()) -> None:
        changes = ", ".join(f"{column} = excluded.{column}" for column in update)
        conflict = f" ON CONFLICT ({key}) DO UPDATE SET {changes}" if update else ""
        row = f"({', '.join('?' * len(columns))})"
        sizes = [1 << power for power in range(MAX_ROWS_PER_STATEMENT.bit_length() - 1, -1, -1)]
        self._statements = [
            (size, f"INSERT INTO {table} ({', '.join(columns)}) VALUES {', '.join([row] * size)}{conflict}")
            for size in sizes
        ]

    def run(self, connection: sqlite3.Connection, rows: Sequence[Iterable[Any]]) -> None:
        """Write the rows, the largest statements first."""
        done = 0
        for size, statement in self._statements:
            while len(rows) - done >= size:
                connection.execute(statement, list(chain.from_iterable(rows[done : done + size])))
                done += size


_insert_charges = Insert("charges", INSERTED_COLUMNS)
_update_charges = Insert("charges", CHARGE_COLUMNS, "tenant_id, month, id", UPDATED_COLUMNS)
_update_windows = Insert("windows", _WINDOW_COLUMNS, "id", _BALANCES)
_insert_entries = Insert("entries", EntryRow._fields)
_UPDATE_LIMIT = f"UPDATE quotas SET {', '.join(f'{column} = ?' for column in LIMITS)} WHERE id = ?"
_UPDATE_TERMS = f"UPDATE windows SET {', '.join(f'{column} = ?' for column in TERMS)} WHERE id = ?"
_UPDATE_JOB = (
    "UPDATE jobs SET charge_id = ?, status = ?, started_ms = coalesce(started_ms, ?),"
    " completed_ms = ?, outcome = coalesce(?, outcome) WHERE tenant_id = ? AND id = ? AND completed_ms IS NULL"
)


def write(connection: sqlite3.Connection, page: Page) -> None:
    """Write everything that the page changed."""
    _insert_charges.run(connection, [inserted_values(row) for row in page.new_charges])
    _update_charges.run(connection, [all_values(row) for row in page.changed_charges.values()])
    for quota in page.changed_limits.values():
        connection.execute(_UPDATE_LIMIT, (*limit_values(quota), quota.id))
    _update_windows.run(connection, [_window_values(row) for row in page.changed_windows.values()])
    for window in page.changed_terms.values():
        terms = window.report_only, window.override, window.due_ms, window.rolled, window.base
        connection.execute(_UPDATE_TERMS, (*terms, window.id))
    if page.new_temporary or page.ended_grants:
        write_temporary(connection, page)
    _insert_entries.run(connection, page.new_entries)
    if page.changed_keys:
        write_keys(connection, page.changed_keys.values())
    for tenant_id, job_id, *values in page.changed_jobs.values():
        connection.execute(_UPDATE_JOB, (*values, tenant_id, job_id))


def write_entries(connection: sqlite3.Connection, entries: Sequence[EntryRow]) -> None:
    """Write entries at once, while the page is being read."""
    _insert_entries.run(connection, entries)


def _window_values(row: WindowRow) -> tuple[Any, ...]:
    return (
        row.id,
        row.tenant_id,
        row.quota.id,
        row.quota.value,
        row.starts_ms,
        row.ends_ms,
        row.granted,
        row.settled,
        row.pending,
        row.forgiven,
        row.sequence,
    )
