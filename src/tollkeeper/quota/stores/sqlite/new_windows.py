"""Creates windows on SQLite."""

import sqlite3

from tollkeeper.quota.rules.page import Page, WindowRow
from tollkeeper.quota.stores.rows import opening_entries
from tollkeeper.quota.stores.sqlite.writes import write_entries

_CREATE_WINDOW = (
    "INSERT INTO windows"
    " (tenant_id, quota_id, starts_ms, ends_ms, granted, settled, pending, forgiven, sequence, report_only, override,"
    " due_ms, rolled, value, base) SELECT :tenant_id, :quota_id, :starts_ms, :ends_ms, :granted, 0, 0, 0, :sequence,"
    " :report_only, :override, :due_ms, 0, :value, :base WHERE NOT EXISTS (SELECT 1 FROM"
    " (SELECT ends_ms FROM windows WHERE tenant_id = :tenant_id AND quota_id = :quota_id AND value = :value"
    f" AND starts_ms < coalesce(:ends_ms, {2**63 - 1}) ORDER BY starts_ms DESC LIMIT 1)"
    " WHERE ends_ms IS NULL OR ends_ms > :starts_ms)"
)
"""It inserts nothing where the window would overlap another one of its quota. A trigger would cost every batch."""


def create_window(connection: sqlite3.Connection, page: Page, window: WindowRow) -> WindowRow:
    """Create a window that begins now, with its first entries. Returns it with its id."""
    values = {
        "tenant_id": window.tenant_id,
        "quota_id": window.quota.id,
        "starts_ms": window.starts_ms,
        "ends_ms": window.ends_ms,
        "granted": window.granted,
        "sequence": window.sequence,
        "report_only": window.report_only,
        "override": window.override,
        "due_ms": window.due_ms,
        "value": window.quota.value,
        "base": window.base,
    }
    created = connection.execute(_CREATE_WINDOW, values)
    if created.rowcount != 1:
        raise sqlite3.IntegrityError(f"A window of quota {window.quota.id} would overlap another one of it.")
    window.id = created.lastrowid or 0
    page.has_new_windows = True
    write_entries(connection, opening_entries(window, page.now_ms))
    return window
