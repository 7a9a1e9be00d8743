"""What a batch writes on SQLite: many rows a statement.

Each step of a statement lets go of Python's global lock and must win it back from a busy event loop. So the rows of a
batch go in few statements, in groups of a power of two, so that few different ones need to be prepared.
"""

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from operator import attrgetter
from typing import Any

from tollkeeper.quota.rules.page import (
    CHANGING_COLUMNS,
    CHARGE_COLUMNS,
    OPENING_COLUMNS,
    ChargeRow,
    EntryRow,
    Page,
    WindowRow,
)
from tollkeeper.quota.stores.rows import opening_values
from tollkeeper.quota.stores.sqlite.keys import write_key

MAX_GROUP = 64
"""Rows in one statement; with the widest row that is under SQLite's 32,766 parameters."""

_BALANCES = ("granted", "settled", "pending", "forgiven", "sequence")
_WINDOW_COLUMNS = ("id", "quota_id", "starts_ms", "ends_ms", *_BALANCES)


class Insert:
    """An INSERT of any number of rows. With `update`, a row that exists has these columns replaced."""

    def __init__(self, table: str, columns: Sequence[str], update: Sequence[str] = ()) -> None:
        changes = ", ".join(f"{column} = excluded.{column}" for column in update)
        conflict = f" ON CONFLICT (id) DO UPDATE SET {changes}" if update else ""
        row = f"({', '.join('?' * len(columns))})"
        sizes = [1 << power for power in range(MAX_GROUP.bit_length() - 1, -1, -1)]
        self._statements = [
            (size, f"INSERT INTO {table} ({', '.join(columns)}) VALUES {', '.join([row] * size)}{conflict}")
            for size in sizes
        ]

    def run(self, connection: sqlite3.Connection, rows: Sequence[Iterable[Any]]) -> None:
        done = 0
        for size, statement in self._statements:
            while len(rows) - done >= size:
                connection.execute(statement, list(chain.from_iterable(rows[done : done + size])))
                done += size


_all_values: Callable[[ChargeRow], tuple[Any, ...]] = attrgetter(*CHARGE_COLUMNS)
_open_charges = Insert("charges", OPENING_COLUMNS)
_change_charges = Insert("charges", CHARGE_COLUMNS, CHANGING_COLUMNS)
_change_windows = Insert("windows", _WINDOW_COLUMNS, _BALANCES)
_write_entries = Insert("entries", EntryRow._fields)


def write(connection: sqlite3.Connection, page: Page) -> None:
    """Write everything that a page changed."""
    _open_charges.run(connection, [opening_values(row) for row in page.opened])
    _change_charges.run(connection, [_all_values(row) for row in page.changed.values()])
    for quota in page.limits.values():
        connection.execute("UPDATE quotas SET granted = ? WHERE id = ?", (quota.granted, quota.id))
    _change_windows.run(connection, [_window_values(row) for row in page.touched.values()])
    _write_entries.run(connection, page.entries)
    for key in page.written_keys.values():
        write_key(connection, key)


def write_entry(connection: sqlite3.Connection, entry: EntryRow) -> None:
    """Write one line, before the page has any."""
    _write_entries.run(connection, [entry])


def _window_values(row: WindowRow) -> tuple[Any, ...]:
    return (
        row.id,
        row.quota.id,
        row.starts_ms,
        row.ends_ms,
        row.granted,
        row.settled,
        row.pending,
        row.forgiven,
        row.sequence,
    )
