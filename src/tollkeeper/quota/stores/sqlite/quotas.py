"""Finds and creates quotas on SQLite."""

import sqlite3

from tollkeeper.quota.rules.page import QuotaKey, QuotaRow
from tollkeeper.quota.stores.rows import APPLIES, QUOTA_COLUMNS, QUOTAS, quota_key_values, quota_row

_SELECT_QUOTAS = f"SELECT {QUOTA_COLUMNS} FROM {QUOTAS}"
_FIND_QUOTA = (
    f"{_SELECT_QUOTAS} WHERE quotas.tenant_id = ? AND user_id IS ? AND quotas.kind = ? AND quotas.subject = ?"
    f" AND unit = ? AND period = ? AND {APPLIES}"
)
_CREATE_QUOTA = (
    "INSERT INTO quotas (tenant_id, user_id, kind, subject, unit, period, granted, report_only)"
    " VALUES (?, ?, ?, ?, ?, ?, 0, false)"
)


def find_quota(connection: sqlite3.Connection, key: QuotaKey, *, create: bool) -> QuotaRow | None:
    """The quota with this key; with `create`, it is made if there is none."""
    values = quota_key_values(key)
    row = connection.execute(_FIND_QUOTA, values).fetchone()
    is_new = row is None and create
    if is_new:
        connection.execute(_CREATE_QUOTA, values)
        row = connection.execute(_FIND_QUOTA, values).fetchone()
    if row is None:
        return None
    quota = quota_row(row).of(key.subject.value)
    quota.is_new = is_new
    return quota
