"""Finds and creates quotas on SQLite."""

import sqlite3

from tollkeeper.quota.rules.page import QuotaKey, QuotaRow
from tollkeeper.quota.stores.rows import APPLIES, QUOTA_COLUMNS, quota_key_values, quota_row

_TENANTS = "JOIN tenants ON tenants.id = quotas.tenant_id"
QUOTAS_OF_USERS = f"quotas INDEXED BY quotas_of_user {_TENANTS}"
QUOTAS_OF_TENANTS = f"quotas INDEXED BY quotas_of_tenant {_TENANTS}"
"""As `QUOTAS`, of users and of tenants, without those that are removed, of which there can be any number. SQLite would
take the indexes of all.
"""
_IS_QUOTA = f"quotas.kind = ? AND quotas.subject = ? AND unit = ? AND period = ? AND {APPLIES}"
_FIND_QUOTA_OF_USER = (
    f"SELECT {QUOTA_COLUMNS} FROM {QUOTAS_OF_USERS} WHERE quotas.tenant_id = ? AND user_id = ? AND {_IS_QUOTA}"
)
_FIND_QUOTA_OF_TENANT = (
    f"SELECT {QUOTA_COLUMNS} FROM {QUOTAS_OF_TENANTS}"
    f" WHERE quotas.tenant_id = ? AND user_id IS NULL AND ? IS NULL AND {_IS_QUOTA}"
)
_CREATE_QUOTA = (
    "INSERT INTO quotas (tenant_id, user_id, kind, subject, unit, period, granted, report_only)"
    " VALUES (?, ?, ?, ?, ?, ?, 0, false)"
)


def find_quota(connection: sqlite3.Connection, key: QuotaKey, *, create: bool) -> QuotaRow | None:
    """The quota with this key; with `create`, it is made if there is none."""
    values = quota_key_values(key)
    find = _FIND_QUOTA_OF_TENANT if key.subject.user_id is None else _FIND_QUOTA_OF_USER
    row = connection.execute(find, values).fetchone()
    is_new = row is None and create
    if is_new:
        connection.execute(_CREATE_QUOTA, values)
        row = connection.execute(find, values).fetchone()
    if row is None:
        return None
    quota = quota_row(row).of(key.subject.value)
    quota.is_new = is_new
    return quota
