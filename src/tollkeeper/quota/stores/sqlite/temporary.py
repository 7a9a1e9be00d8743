"""Reads and writes grants and overrides that end, on SQLite."""

import sqlite3
from collections.abc import Collection

from tollkeeper.quota.rules.page import Page
from tollkeeper.quota.rules.temporary import Temporary, TemporaryRow
from tollkeeper.quota.stores.rows import READ_TEMPORARY, due_windows, quotas_with_due, temporary_of, write_all_due

_COLUMNS = TemporaryRow._fields[1:]
_INSERT = f"INSERT INTO temporary_limits ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"


def read_temporary(connection: sqlite3.Connection, quota_ids: Collection[int], since_ms: int) -> dict[int, Temporary]:
    """The limit of each of these quotas, and its grants and overrides that have not ended before."""
    among = f"IN ({', '.join('?' * len(quota_ids))})"
    statement = READ_TEMPORARY.format(since="?", among=among)
    return temporary_of(connection.execute(statement, (since_ms, *quota_ids)).fetchall())


def write_what_is_due(connection: sqlite3.Connection, page: Page) -> None:
    """Write what is due in the windows of the page, and read the temporary limits of quotas that change."""
    due = due_windows(page)
    quotas, since = quotas_with_due(page, due)
    if quotas:
        page.temporary |= read_temporary(connection, quotas, since)
        write_all_due(page, due)


def write_temporary(connection: sqlite3.Connection, page: Page) -> None:
    """Write new grants and overrides, and delete grants that were taken back."""
    connection.executemany(_INSERT, [row[1:] for row in page.new_temporary])
    connection.executemany("DELETE FROM temporary_limits WHERE id = ?", [(row_id,) for row_id in page.ended_grants])
